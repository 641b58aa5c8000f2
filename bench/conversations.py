"""An agent's conversation of eight turns, growing to 16k tokens, with tools and thinking: how much of each prompt is
computed again, and how long the first token takes; `ingot serve` beside `llama-server`, the same random weights.

`python -m bench.conversations --style returned,dropped,edited` measures what bench/results/conversations.jsonl has not
yet for this commit. The client sends the reasoning back, or drops it (as most do), or also cuts old results of tools.
The model's words are its own, of fixed lengths (random weights never stop): it thinks, and the client adds the tool
call that it should have made; then it answers without thinking. With `--scripted` the client writes all words itself,
which no server has seen. Speed only: the weights are random.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import limits, llama, servers
from bench.agent_trace import TOOLS, Message, Trace
from bench.arguments import server_parser
from bench.checkpoints import official_shape, with_template
from bench.process import alone
from bench.results import Record, append, commit, disk_ratios, now, read_records
from bench.served_load import BIAS, SETTINGS, readable
from bench.servers import Answered, Server
from ingot.prompt import Tokenizer
from ingot.spec import read_config
from ingot.spec.cost import kv_bytes, state_bytes

TEMPLATE = Path(__file__).resolve().parents[1] / "tests/data/templates/0.8B_2B.jinja"  # the official one
STYLES = ("returned", "dropped", "edited")
TURNS, CUT_AT = 8, (5, 7)  # turns before which the style "edited" cuts the oldest result that is whole
END_BIAS = 100  # of the token that ends an answer, where it may
# a person who reads and types takes as long (taste); 6 s did not suffice for 1,650 tokens behind 12,000, on two cores
PAUSE = (
    "seconds in which the user reads an answer and types, and the server reads the turn again; 6 were too short at 12k"
)
SLACK = 64  # tokens that may be computed again beside what is new and the last visible answer


@dataclass
class Client:
    """One conversation with one server."""

    server: Server
    trace: Trace
    style: str
    args: argparse.Namespace
    words: Sequence[int]
    end: int  # the token that ends an answer
    messages: list[Message] = field(default_factory=list)
    asked: list[Record] = field(default_factory=list)
    new: int = 0  # tokens that the client has written since the last request
    visible: int = 0  # tokens of the last answer that stay in the conversation

    def run(self) -> None:
        """All turns."""
        self._say(self.trace.system())
        for turn in range(1, TURNS + 1):
            if self.style == "edited" and turn in CUT_AT:
                self._cut(CUT_AT.index(turn) + 1)
            self._say(self.trace.question(turn))
            self._answered(self.ask(turn, thinking=True), turn, calls=True)
            self._say(self.trace.result(turn))
            self._answered(self.ask(turn, thinking=False), turn, calls=False)
            time.sleep(self.args.pause)  # the user reads

    def ask(self, turn: int, thinking: bool) -> Answered:
        """One request, noted."""
        answer = servers.ask(self.server, "/v1/chat/completions", self.body(thinking))
        assert self.args.answer <= answer.tokens <= self.args.answer + 1, answer.usage
        bound = self.new + self.visible + SLACK
        recomputed = answer.prompt - answer.cached
        about = {"turn": turn, "step": "call" if thinking else "answer", "prompt": answer.prompt}
        costs = {"cached": answer.cached, "recomputed": recomputed, "bound": bound, "first_s": answer.first_s}
        self.asked.append({**about, **costs})
        print(f"{self.server.who} {self.style} {self.asked[-1]}", flush=True)
        return answer

    def body(self, thinking: bool) -> dict[str, Any]:
        """The request for the next answer."""
        return {
            "messages": self.messages,
            "tools": TOOLS,
            "chat_template_kwargs": {"enable_thinking": thinking},
            **self._length(ends=not thinking),
            "temperature": 1.0,
            "top_k": 20,
            "top_p": 1.0,
            "min_p": 0.0,
            "seed": len(self.messages),
            "logit_bias": {str(word): BIAS for word in self.words} | {str(self.end): END_BIAS},
        }

    def _length(self, ends: bool) -> dict[str, Any]:
        """A fixed length. An answer that ends is what makes `ingot serve` read ahead; llama-server does not, and has
        no min_tokens."""
        if ends and self.server.who == "ours":
            return {"min_tokens": self.args.answer, "max_tokens": self.args.answer + 8}
        return {"max_tokens": self.args.answer, "ignore_eos": True}

    def _say(self, message: Message) -> None:
        self.messages.append(message)
        self.new += self._tokens(message["content"]) + 8  # the tags around it

    def _answered(self, answer: Answered, turn: int, calls: bool) -> None:
        """The answer as this client keeps it. Words that the server has not made are new to it."""
        said = dict(answer.message)
        if self.args.scripted:
            name = "reasoning_content" if calls else "content"
            said = {"content": "", "reasoning_content": "", name: self.trace.words(2 * turn + calls, self.args.answer)}
        message: Message = {"role": "assistant", "content": said["content"]}
        if calls:
            message["tool_calls"] = self.trace.call(turn)
        if self.style != "dropped" and said["reasoning_content"]:
            message["reasoning_content"] = said["reasoning_content"]
        self.messages.append(message)
        self.visible = self._tokens(said["content"])
        self.new = self._call_tokens(message)
        if self.args.scripted:
            self.new += self._tokens(message.get("reasoning_content", ""))

    def _cut(self, turn: int) -> None:
        """Shorten a turn's result; all that comes after it is new, and what the model said before it (the call) is the
        last answer that stays."""
        place = next(i for i, one in enumerate(self.messages) if one.get("tool_call_id") == f"call-{turn}")
        self.messages[place] = self.trace.shorter(turn)
        self.new += sum(self._tokens(one["content"]) + 40 + self._call_tokens(one) for one in self.messages[place:])
        self.visible = self._tokens(self.messages[place - 1]["tool_calls"][0]["function"]["arguments"]) + 64

    def _call_tokens(self, message: Message) -> int:
        """Of the calls that the client wrote into an answer, with the markup around them."""
        return sum(self._tokens(call["function"]["arguments"]) + 32 for call in message.get("tool_calls", ()))

    def _tokens(self, text: str) -> int:
        return self.trace.count(text)


def main() -> None:
    """Measure what is missing."""
    args = _arguments()
    source = llama.built(args.llama or args.work)
    plain = official_shape(args.size, args.work)
    file = llama.model_file(source, plain, args.peer or llama.PEERS[args.format][0])
    checkpoint = with_template(plain, TEMPLATE)
    for style in args.style.split(","):
        for who in args.who.split(","):
            if not _done(args, style, who):
                with alone(args.lock):
                    _conversation(args, source, checkpoint, file, style, who)


def _conversation(args: argparse.Namespace, source: Path, checkpoint: Path, file: Path, style: str, who: str) -> None:
    """One style with one server, from cold; then the next question after a restart, and on a server that has
    nothing kept."""
    tokenizer = Tokenizer.from_directory(checkpoint)
    trace = Trace(lambda text: len(tokenizer.encode(text)), args.scale)
    roof, cache = limits.reading(args.threads), args.work / "cache"

    def start(kept: bool) -> Any:
        if who == "theirs":
            more = ["--jinja", "--chat-template-file", str(TEMPLATE), *args.theirs.split()]
            return servers.theirs(source, file, 1, args.context, args.threads, SETTINGS, more)
        more = (args.ours if kept else args.cold).split()
        return servers.ours(checkpoint, args.format, args.parallel, args.context, args.threads, more, cache)

    shutil.rmtree(cache / "prefix", ignore_errors=True)
    with start(True) as server:
        client = Client(server, trace, style, args, readable(checkpoint), tokenizer.token_id("<|im_end|>"))
        client.run()
        told = server.memory() | {"command": server.command}
    if who == "ours":
        told |= _disk(checkpoint, client, kept_bytes(cache)) | _again(client, start)
    record: Record = {
        "kind": "conversation",
        "time": now(),
        "commit": commit(),
        "machine": limits.machine(),
        **_key(args, style, who),
        "threads": args.threads,
        "asked": client.asked,
        **told,
        **roof,
        "llama": llama.SDIST,
    }
    append(args.out, record)
    print(summary(record), flush=True)


def _again(client: Client, start: Callable[[bool], Any]) -> Record:
    """The next question to a new process that finds what the old one kept, and to one that has nothing."""
    client.messages.append(client.trace.question(TURNS + 1))
    found: Record = {}
    for name, kept in (("restarted", True), ("cold", False)):
        with start(kept) as server:
            answer = servers.ask(server, "/v1/chat/completions", client.body(thinking=True))
        found[name] = {"prompt": answer.prompt, "cached": answer.cached, "first_s": answer.first_s}
        print(f"{name} {found[name]}", flush=True)
    return found


def kept_bytes(cache: Path) -> int:
    """Bytes of states on disk."""
    return sum(path.stat().st_size for path in (cache / "prefix").rglob("*") if path.is_file())


def _disk(checkpoint: Path, client: Client, kept: int) -> Record:
    """What is on disk after the conversation, beside what its keys and values take, and a recurrent state."""
    config = read_config(checkpoint / "config.json")
    tokens = client.asked[-1]["prompt"] + client.args.answer
    sizes = {"kv_bytes": tokens * kv_bytes(config, client.args.kv), "state_bytes": state_bytes(config)}
    return {"disk_bytes": kept, **sizes}


def summary(record: Mapping[str, Any]) -> str:
    """A line about a conversation."""
    asked = record["asked"][1:]  # the first is cold
    over = [one for one in asked if one["recomputed"] > one["bound"]]
    parts = [
        f"{record['who']} {record['style']}: {asked[-1]['prompt']:,} tokens at the end",
        f"recomputed {sum(one['recomputed'] for one in asked):,} of {sum(one['prompt'] for one in asked):,}",
        f"{len(over)} of {len(asked)} requests over the bound",
        f"first token median {sorted(one['first_s'] for one in asked)[len(asked) // 2]:.2f} s",
        f"longest {max(one['first_s'] for one in asked):.2f} s",
    ]
    if "restarted" in record:
        warm, cold = record["restarted"]["first_s"], record["cold"]["first_s"]
        parts.append(f"after a restart {warm:.2f} s, cold {cold:.2f} s ({warm / cold:.1%})")
    if record.get("disk_bytes"):
        parts.append(disk(record))
    return "; ".join(parts)


def disk(record: Mapping[str, Any]) -> str:
    """Bytes on disk beside those of keys, values and one state a request, and a question of the user's."""
    request, question = disk_ratios(record)
    told = f"disk {record['disk_bytes'] / 1e6:.0f} MB"
    return f"{told}, {request:.2f} x (KV + a state a request), {question:.2f} x (KV + a state a question)"


def _key(args: argparse.Namespace, style: str, who: str) -> dict[str, Any]:
    sizes = {"size": args.size, "format": args.format, "scale": args.scale, "answer": args.answer}
    options = {"pause": args.pause, "scripted": args.scripted, "options": args.ours if who == "ours" else args.theirs}
    return {**sizes, "style": style, "who": who, **options}


def _done(args: argparse.Namespace, style: str, who: str) -> bool:
    wanted = {"commit": commit(), "threads": args.threads, **_key(args, style, who)}
    return any(all(record.get(k) == v for k, v in wanted.items()) for record in read_records(args.out))


def _arguments() -> argparse.Namespace:
    parser = server_parser("conversations", __doc__, ours="--cache-disk auto")
    parser.add_argument("--kv", default="bf16", help="our format of keys and values")
    parser.add_argument("--style", default=",".join(STYLES), help=f"some of {', '.join(STYLES)}")
    parser.add_argument("--who", default="ours,theirs", help="ours, theirs or both")
    parser.add_argument("--scale", type=float, default=1.0, help="of the texts' lengths; 1 grows to 16k tokens")
    parser.add_argument("--answer", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--pause", type=float, default=12.0, help=PAUSE)
    parser.add_argument("--scripted", action="store_true", help="the client writes the model's words too")
    parser.add_argument("--context", type=int, default=20_480, help="tokens of the servers' context")
    parser.add_argument("--parallel", type=int, default=1, help="places of ours")
    parser.add_argument("--cold", default="", help="its options where nothing may be kept from before")
    return parser.parse_args()


if __name__ == "__main__":
    main()
