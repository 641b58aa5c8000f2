"""`python scripted.py ARGS`: the command line over a model that recites. What the user says picks the recitation.

Real streams, usage and message rules; no weights, so a test knows every character and every pause.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import ingot
from ingot.answer import ChatCompletion, Stream, Usage
from ingot.prompt import normalise_messages, normalise_tools
from ingot.prompt.output import Delta
from ingot.spec import official, parse_config

ESCAPES = "red \x1b[31m title \x1b]0;owned\x07 clear \x1b[2J\x1b[H c1 \x9b5A back \r bidi \u202e end"
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
THOUGHT = "I add the ones: 7 + 5 = 12, so 2 and carry 1.\nThen the tens: 1 + 2 + 1 = 4. " * 4


class Reciter:
    """Has the part of LanguageModel that the command line uses."""

    def __init__(self) -> None:
        self.config = parse_config(official("0.8b"))
        self.engine = SimpleNamespace(ops=SimpleNamespace(__name__="ingot.ops.reference"))
        self.cache_file = None
        self.preprocessor = None

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Any = None,
        thinking: bool | None = None,
        *,
        stream: bool = False,
        **sampling: Any,
    ) -> Any:
        normal = normalise_messages(messages)
        normalise_tools(tools)
        said = normal[-1]["content"]
        if said == "refuse":
            raise ValueError("the prompt has 9 tokens; this model's context holds 5")
        completion = ChatCompletion(usage=Usage(prompt_tokens=sum(len(m["content"].split()) for m in normal)))
        pieces = Stream(self._recite(said, normal, thinking, sampling, completion), completion)
        return pieces if stream else pieces.finish()

    def _recite(
        self, said: str, messages: list[Any], thinking: bool | None, sampling: Any, completion: ChatCompletion
    ) -> Iterator[Delta]:
        usage, reason = completion.usage, "stop"
        if said == "slow reading":
            time.sleep(1.5)
        if thinking or said == "think only":
            for word in THOUGHT.split(" "):
                usage.reasoning_tokens += 1
                usage.completion_tokens += 1
                time.sleep(0.005)
                yield Delta(reasoning=word + " ")
        if said == "think only":
            completion.finish_reason = "length"
            return
        if said == "weather?":
            completion.tool_calls = [CALL]
            completion.finish_reason = "tool_calls"
            usage.completion_tokens += 3
            return
        if said == "long":
            reason = "length"
        for piece in self._words(said, messages, sampling):
            usage.completion_tokens += 1
            usage.decode_s += 0.01
            yield Delta(content=piece)
            completion.content += piece
        completion.finish_reason = reason

    def _words(self, said: str, messages: list[Any], sampling: Any) -> Iterator[str]:
        if said == "forever":
            for number in range(10**6):
                time.sleep(0.02)
                yield f"{number} "
        elif said == "crash":
            raise RuntimeError("the kernels are on fire")
        elif said == "escape":
            yield from ESCAPES
        elif said == "nothing":
            return
        elif said == "messages":
            yield " | ".join(f"{m['role']}: {m['content']}" for m in messages)
        elif said == "sampling":
            yield repr(sorted(sampling.items()))
        elif messages[-1]["role"] == "tool":
            yield f"It is {said} in Paris."
        else:
            yield from ("4", "2")


def load(model: Any = None, **settings: Any) -> Reciter:
    """In place of ingot.load: any existing directory, or none."""
    if model is None or str(model) != "missing":
        return Reciter()
    raise FileNotFoundError("missing: there is no such directory")


if __name__ == "__main__":
    ingot.load = load  # type: ignore[assignment]
    from ingot.cli import main

    sys.exit(main())
