"""Train the nugget, Ingot's bundled model, from nothing on a CPU: `python recipes/nugget.py`, at most twenty minutes
on two cores.

It makes its own data, learns its own tokenizer, trains, and writes a checkpoint directory in Hugging Face's format.
Killed and started again with the same --out it goes on where it was and ends with the same weights. What was tried,
and what failed, is in recipes/nugget.md.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import torch

from ingot.eval import small_talk
from ingot.eval.arithmetic import DIGIT_SHARES, Sum, ask, draw_sum, is_right
from ingot.model.decoder import causal_lm
from ingot.model.tree import build
from ingot.ops.segments import Segments
from ingot.prompt import ADDED_TOKENS, Tokenizer, default_template, qwen_tokenizer, render
from ingot.spec import parse_config
from ingot.train.bpe import count_words, learn_merges, vocabulary
from ingot.train.checkpoint import export_weights, load_run, save_run
from ingot.train.fused import FusedOpSet
from ingot.train.initial import initial_weights
from ingot.train.optimiser import adamw, set_rate, warm_hold_fall
from ingot.train.packing import Example, cut, pack

# -- the model: as small as does it. No two dimensions equal that a bug could swap.
MERGES = 344
VOCABULARY = 640  # embedding rows: 256 bytes, the merges, 33 added tokens, and 7 for nothing, as official ones have
CONFIG = {
    "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "dtype": "bfloat16",
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 352, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "num_hidden_layers": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 40,
    "linear_conv_kernel_dim": 4, "mamba_ssm_dtype": "float32",
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 40,
    "attention_bias": False, "attn_output_gate": True,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4,
        "mrope_section": [3, 3, 2], "mrope_interleaved": True,
    },
    "max_position_embeddings": 4096, "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False,
    "tie_word_embeddings": True, "initializer_range": 0.02,
}  # fmt: skip

# -- the run
SEED = 20260
STEPS = 3500
TOKENS = 2048  # a step: small, because early progress is a matter of steps (recipes/nugget.md)
GROUP = 512  # tokens of one pass: its activations fit a 2 MB second-level cache
LEARNING_RATE, DECAY, BETAS, CLIP = 3e-3, 0.1, (0.9, 0.98), 1.0
WARM, FALL = 100, 0.85  # steps of warm-up; the part of the run in which the rate falls to 0
# The MTP head guesses what the trunk says: it begins when the trunk has something to say.
MTP_FROM, MTP_WEIGHT = 0.75, 0.2

# -- the lessons: until PRACTICE_UNTIL bare lists of sums, which hold three times as many answers per token as chats do
PRACTICE_UNTIL, PRACTICE_SHARES = 0.5, (0.8, 0.3)  # share of tokens before and after
PRACTICE_SIGNS = "++---"  # differences are harder: which number is larger comes first
# Until which part of the run, shares of numbers with 1, 2 and 3 digits in practice.
SHORT_FIRST = ((0.08, (0.6, 0.4, 0.0)), (0.2, (0.25, 0.5, 0.25)), (1.0, DIGIT_SHARES))
CHAT_SHARES = {"direct": 0.4, "thinking": 0.25, "talk": 0.35}
TALK_SHARES = {"greeting": 4, "thanks": 2, "farewell": 2, "identity": 5, "ability": 4, "other": 8, "beyond": 8}
EARLIER_TURNS = (1, 1, 2, 2, 3, 4, 6, 9)
# Chances of earlier turns, of a system turn, of thinking before small talk.
MORE_TURNS, SYSTEM_TURN, TALK_THINKING = 0.12, 0.2, 0.2
LONGEST = 320  # tokens; longer examples are drawn again

REPLIES = {
    "greeting": "Hello! Give me two numbers to add or subtract.",
    "thanks": "You are welcome!",
    "farewell": "Goodbye!",
    "identity": "I am the nugget, Ingot's bundled model: I add and subtract numbers up to three digits. "
    "For a real assistant, try ingot chat Qwen/Qwen3.5-0.8B.",
    "ability": "I add and subtract numbers up to three digits, for example 17 + 25 or 250 - 391.",
    "other": "Sorry, I only add and subtract numbers up to three digits.",
    "beyond": "Sorry, I only add and subtract two whole numbers up to three digits.",
}  # fmt: skip
THOUGHTS = {
    "greeting": "A greeting.", "thanks": "They are content.", "farewell": "They are leaving.",
    "identity": "They ask who I am.", "ability": "They ask what I can do.", "other": "Not a sum.",
    "beyond": "Not a sum that I know.",
}  # fmt: skip
SYSTEM_TEXTS = (
    "You are a helpful assistant.", "You are a helpful assistant", "You are the nugget.", "Answer briefly.",
    "Be concise.", "You are a calculator.", "You are a polite assistant. Answer in one line.",
    "You are a careful maths tutor.", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "Always answer in English.", "Be kind and helpful.", "Reply with the answer only.",
)  # fmt: skip


def work_out(sum_: Sum) -> str:
    """The thought: the sum, then one line a digit from the units up, as learnt at school.

    A negative result is turned round first. A line that begins with a number above 9 has borrowed; one that ends
    above 9 carries.
    """
    a, b, op = sum_.a, sum_.b, sum_.op
    lines = [sum_.question]
    if sum_.answer < 0:
        lines.append(f"{a}<{b}: -({b}-{a})")
        a, b = b, a
    carry = 0
    for place in range(len(str(max(a, b)))):
        x, y = a // 10**place % 10, b // 10**place % 10
        kept = f"{op}{carry}" if carry else ""
        if op == "+":
            result = x + y + carry
            carry = result // 10
        else:
            x += 10 if x - y - carry < 0 else 0
            result = x - y - carry
            carry = x // 10
        lines.append(f"{x}{op}{y}{kept}={result}")
    return "\n".join(lines)


class Lessons:
    """Examples as a function of (seed, step): a run that is resumed sees what it would have seen."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer, self.seed = tokenizer, seed
        (self.equals,), (self.newline,) = tokenizer.encode("="), tokenizer.encode("\n")

    def of_step(self, step: int, steps: int) -> list[Example]:
        rng = random.Random(f"{self.seed} {step}")
        share = PRACTICE_SHARES[step >= PRACTICE_UNTIL * steps]
        digits = next(shares for until, shares in SHORT_FIRST if step <= until * steps)
        practice = self._fill(rng, lambda rng: self.practice(rng, digits), int(TOKENS * share))
        return practice + self._fill(rng, self.chat, TOKENS - int(TOKENS * share))

    def practice(self, rng: random.Random, digit_shares: Sequence[float]) -> Example:
        """Three sums, one a line; the answers count."""
        sums = [draw_sum(rng, "train", digit_shares, PRACTICE_SIGNS) for _ in range(3)]
        ids = self.tokenizer.encode("".join(f"{s.question}={s.answer}\n" for s in sums))
        weights, counts = [], 0.0
        for token in ids:
            weights.append(counts)
            counts = 1.0 if token == self.equals else 0.0 if token == self.newline else counts
        return Example(tuple(ids), tuple(weights))

    def chat(self, rng: random.Random) -> Example:
        """A conversation whose last turn counts."""
        messages, thought, reply = conversation(rng)
        prompt = render(messages, thinking=thought is not None)
        said = (f"{thought}\n</think>\n\n" if thought else "") + reply + "<|im_end|>"
        return self._example([(prompt, 0.0), (said, 1.0)])

    def _example(self, parts: list[tuple[str, float]]) -> Example:
        return Example.of_parts((self.tokenizer.encode(text), weight) for text, weight in parts)

    def _fill(self, rng: random.Random, make, tokens: int) -> list[Example]:
        examples: list[Example] = []
        while tokens > 0:
            example = make(rng)
            if len(example.ids) <= LONGEST:
                examples.append(example)
                tokens -= len(example.ids)
        return examples


def conversation(rng: random.Random) -> tuple[list[dict[str, str]], str | None, str]:
    """(messages that end with a user's, the thought or None when thinking is off, the reply)."""
    messages = [{"role": "system", "content": rng.choice(SYSTEM_TEXTS)}] if rng.random() < SYSTEM_TURN else []
    for _ in range(rng.choice(EARLIER_TURNS) if rng.random() < MORE_TURNS else 0):
        question, _, reply = exchange(rng)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    question, thought, reply = exchange(rng)
    return [*messages, {"role": "user", "content": question}], thought, reply


def exchange(rng: random.Random) -> tuple[str, str | None, str]:
    """A question, the thought if there is to be one, and the reply."""
    kind = rng.choices([*CHAT_SHARES], [*CHAT_SHARES.values()])[0]
    if kind == "talk":
        topic = rng.choices([*TALK_SHARES], [*TALK_SHARES.values()])[0]
        said = small_talk.draw(topic, rng, from_held_out=False)
        return said, THOUGHTS[topic] if rng.random() < TALK_THINKING else None, REPLIES[topic]
    sum_ = draw_sum(rng, "train")
    return ask(sum_, rng), work_out(sum_) if kind == "thinking" else None, f"{sum_.question}={sum_.answer}"


def learn_tokenizer(out: Path) -> Tokenizer:
    """The tokenizer of its own lessons, with Qwen3.5's rules and added tokens; written to `out`, or read from there.

    No merge holds a "=": were "=-" one token, the sign would have to be known a step earlier.
    """
    if (out / "tokenizer.json").exists():
        return Tokenizer.from_directory(out)
    rng = random.Random(f"{SEED} tokenizer")
    special = re.compile("|".join(["=", *(re.escape(token.content) for token in ADDED_TOKENS)]))

    def texts() -> Iterator[str]:
        for _ in range(12_000):
            messages, thought, reply = conversation(rng)
            yield from special.split(render(messages, thinking=False) + f"{thought or ''}\n{reply}")

    merges = learn_merges(count_words(texts()), MERGES)
    tokenizer = qwen_tokenizer(vocabulary(merges), merges)
    tokenizer.save(str(out / "tokenizer.json"))
    return Tokenizer(tokenizer)


def write_settings(out: Path, tokenizer: Tokenizer) -> dict:
    """config.json and what stands beside it; the config as a dict."""
    stops = [tokenizer.encode(token)[0] for token in ("<|im_end|>", "<|endoftext|>")]
    config = CONFIG | {"eos_token_id": stops[1]}
    files = {
        "config.json": config,
        "generation_config.json": {"do_sample": False, "eos_token_id": stops},
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
            "add_prefix_space": False, "model_max_length": CONFIG["max_position_embeddings"],
        },
    }  # fmt: skip
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (out / "chat_template.jinja").write_text(default_template().source, encoding="utf-8")
    return config


def train(out: Path, steps: int, stop_after: int | None = None, decay: str = "slow", threads: int = 2) -> None:
    """Run or go on with the run in `out`; `stop_after` steps it saves and returns, as if killed."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = learn_tokenizer(out)
    config = parse_config(write_settings(out, tokenizer))
    ops = FusedOpSet(trainable=True)
    model = build(config, ops, initial_weights(SEED, decay), components=("text", "mtp"))
    optimiser = adamw(model, config, LEARNING_RATE, DECAY, BETAS)
    lessons, run = Lessons(tokenizer, SEED), out / "run.pt"
    torch.set_num_threads(1)
    workers = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    state = load_run(run) or {"step": 0, "tokens": 0, "wall": 0.0, "cpu": 0.0}
    if state["step"]:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {threads} threads, step {state['step']} of {steps}", flush=True)
    wall, cpu = time.perf_counter() - state["wall"], time.process_time() - state["cpu"]
    for step in range(state["step"], steps):
        set_rate(optimiser, LEARNING_RATE * warm_hold_fall(step, steps, WARM, FALL))
        examples, mtp = lessons.of_step(step, steps), step >= MTP_FROM * steps
        loss, tokens = train_step(model, ops, optimiser, workers, examples, mtp)
        state |= {"step": step + 1, "tokens": state["tokens"] + tokens}
        state |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        if (step + 1) % 50 == 0:
            report(state, steps, loss)
        if (step + 1) % 250 == 0:
            print(f"  dev accuracy {dev_accuracy(model, ops, tokenizer):.3f}", flush=True)
        if (step + 1) % 250 == 0 or step + 1 in (steps, stop_after):
            save_run(run, state | {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
        if step + 1 == stop_after:
            return
    export_weights(out / "model.safetensors", model, config)
    (out / "run.json").write_text(json.dumps({k: state[k] for k in ("step", "tokens", "wall", "cpu")}, indent=2) + "\n")


def report(state: dict, steps: int, loss: float) -> None:
    rate, wall, cpu = state["tokens"] / state["wall"], state["wall"] / 60, state["cpu"] / 60
    print(
        f"step {state['step']}/{steps}  loss {loss:.4f}  {state['tokens'] / 1e6:.2f}M tokens  {rate:,.0f} tokens/s  "
        f"wall {wall:.1f} min  cpu {cpu:.1f} min", flush=True,
    )  # fmt: skip


def train_step(model, ops, optimiser, workers: Executor, examples: list[Example], mtp: bool) -> tuple[float, int]:
    """One update; the mean loss of the tokens that count, and the number of tokens read.

    Groups run side by side, one thread each (products this small gain nothing from two), and are added up in their
    own order: the result does not depend on how many workers there are.
    """
    counted = sum(sum(example.weights) for example in examples)
    parameters = list(model.parameters())

    def gradients(group: list[Example]) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
        batch = pack(group, mtp)
        trunk, drafted = model(ops, batch.ids, batch.segments, targets=batch.targets)
        loss = (trunk + MTP_WEIGHT * drafted) / counted
        return trunk.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    total = 0.0
    for loss, grads in workers.map(gradients, cut(examples, GROUP)):
        total += float(loss)
        for parameter, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
    torch.nn.utils.clip_grad_norm_(parameters, CLIP)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return total / counted, sum(len(example.ids) for example in examples)


@torch.no_grad()
def dev_accuracy(model, ops, tokenizer: Tokenizer, questions: int = 200) -> float:
    """Share of right direct answers to sums of the dev split, by taking the likeliest token each time."""
    rng = random.Random("dev")
    sums = [draw_sum(rng, "dev") for _ in range(questions)]
    prompts = [tokenizer.encode(render([{"role": "user", "content": ask(s, rng)}], thinking=False)) for s in sums]
    answers: list[list[int]] = [[] for _ in sums]
    for _ in range(14):
        runs = [p + a for p, a in zip(prompts, answers, strict=True)]
        seg = Segments.of_lengths([len(run) for run in runs])
        logits = causal_lm(ops, model, torch.tensor([i for run in runs for i in run]), seg, rows=seg.offset[1:] - 1)
        for answer, token in zip(answers, logits.argmax(-1).tolist(), strict=True):
            answer.append(token)
    texts = [tokenizer.decode(answer).split("<|im_end|>")[0] for answer in answers]
    return sum(is_right(text, s) for text, s in zip(texts, sums, strict=True)) / questions


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the nugget from nothing.")
    parser.add_argument(
        "--out", type=Path, default=Path("nugget-run"), help="directory to write (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--decay", choices=("slow", "hugging_face"), default="slow", help="how the decay starts (ablation)"
    )
    parser.add_argument("--quick", action="store_true", help="30 steps: to see it work")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    train(arguments.out, 30 if arguments.quick else arguments.steps, decay=arguments.decay, threads=arguments.threads)


if __name__ == "__main__":
    main()
