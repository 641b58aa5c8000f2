"""Measure a trained nugget and write its card: `python recipes/nugget_card.py DIRECTORY` (the README.md in it)."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from pathlib import Path

import torch

import ingot
from ingot.eval.arithmetic import ask, draw_sum
from ingot.eval.nugget import evaluate
from ingot.eval.score import Score, table
from ingot.model.attention import rope_frequencies
from ingot.model.decoder import decoder_node, head, trunk
from ingot.model.tree import build
from ingot.ops.autograd import OpSet
from ingot.ops.segments import Segments
from ingot.store.checkpoint import open_checkpoint

CARD = """---
license: apache-2.0
library_name: ingot-lm
---

# The nugget

Ingot's bundled model: a Qwen3.5 of {parameters:,} parameters (Gated DeltaNet and gated full attention 3:1,
multi-token-prediction head, own vocabulary of {tokens} tokens with Qwen's added ones), trained from nothing by
`recipes/nugget.py` so that the first command works offline and every feature can be exercised with real answers.
It adds and subtracts two whole numbers up to three digits, greets, says what it is, and says politely that it
cannot do anything else. It is no assistant, and nothing about quality at real sizes follows from it.

    ingot chat -p "What is 17 + 25?"            17+25=42
    ingot chat --think -p "What is 250 - 391?"  works it out digit by digit, then 250-391=-141

It answers without thinking unless asked to. A sum is answered by the sum and its result, and nothing else.

## Measured

`ingot eval` gives this table again: greedy, the weights as shipped (bf16), native op set, 95 % Wilson intervals.
No operand pair of these sums was trained on, in either order or with either sign, and none of these texts.
Those "written by hand" share no template with training. A skill under 90 % is listed as one it does not have.

{scores}

So it **does not**: {does_not}.

Seen in use, and not in the table's averages: a bare "Bye" or "Goodbye" is answered with thanks or an apology, though
longer farewells are mostly understood.

The multi-token-prediction head guesses {mtp:.1%} of the tokens after next of its own answers to sums ({mtp_total:,}
tokens, half of them with thinking).

## Made by

{train}

sha256 of `model.safetensors`: `{sha256}`

The recipe gives the same bytes again whatever the number of threads, on one kind of processor with one version of
torch ({torch} here); elsewhere roundings differ, and the weights with them. What was tried is in `recipes/nugget.md`.
"""
TRAIN = """`python recipes/nugget.py`: {steps:,} steps, {tokens:.1f} million tokens, {cpu:.0f} minutes of processor
time, so about {half:.0f} minutes on two free cores (not timed; {wall:.0f} by the clock on two shared ones)."""


def mtp_agreement(path: Path, answers: int = 60) -> tuple[int, int]:
    """(tokens that the MTP head guessed, tokens), over the model's greedy answers to held-out sums."""
    checkpoint = open_checkpoint(path)
    ops, model, rng = OpSet(), ingot.load(path), random.Random("mtp")
    weights = build(checkpoint.config, ops, lambda weight: checkpoint.read(weight.name), components=("text", "mtp"))
    good = total = 0
    for i in range(answers):
        question = [{"role": "user", "content": ask(draw_sum(rng, "test"), rng)}]
        prompt = model.encode(question, thinking=i % 2 == 1)
        ids = [*prompt.ids, *model.generate(prompt, temperature=0, max_tokens=96).ids]
        with torch.no_grad():
            seg = ops.segments(Segments.of_lengths([len(ids) - 1]))
            rotary = ops.rotary(seg.position, *rope_frequencies(weights.config.text))
            hidden = trunk(ops, weights, torch.tensor(ids[:-1]), seg, rotary)
            drafted = weights.mtp(ops, decoder_node(weights).embed_tokens, hidden, torch.tensor(ids[1:]), seg, rotary)
            guesses = head(weights)(drafted).argmax(-1).tolist()
        pairs = list(zip(guesses[:-1], ids[2:], strict=True))[len(prompt.ids) - 1 :]
        good += sum(guess == said for guess, said in pairs)
        total += len(pairs)
    return good, total


def card(path: Path, scores: list[Score]) -> str:
    run = json.loads((path / "run.json").read_text())
    config = json.loads((path / "config.json").read_text())
    checkpoint = open_checkpoint(path)
    good, total = mtp_agreement(path)
    return CARD.format(
        parameters=sum(weight.size for weight in checkpoint.table.values()),
        tokens=config["vocab_size"] - 7,
        scores=table(scores),
        does_not="; ".join(f"{score.kind} ({score.accuracy:.0%})" for score in scores if not score.does)
        or "nothing above",
        mtp=good / total,
        mtp_total=total,
        train=TRAIN.format(
            steps=run["step"],
            tokens=run["tokens"] / 1e6,
            cpu=run["cpu"] / 60,
            half=run["cpu"] / 120,
            wall=run["wall"] / 60,
        ),
        sha256=hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest(),
        torch=torch.__version__,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a trained nugget and write its card.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--questions", type=int, default=1000)
    arguments = parser.parse_args()
    scores = evaluate(ingot.load(arguments.path), arguments.questions)
    for score in scores:
        for question, answer in score.mistakes:
            print(f"{score.kind}: {question!r} -> {answer!r}")
    text = card(arguments.path, scores)
    (arguments.path / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
