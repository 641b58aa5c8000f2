"""Running the output parser in tests: one tool set, one way to feed a text in pieces, everything compared."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ingot.prompt import Delta, OutputParser, ParsedMessage


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": parameters}}}


TOOLS = [
    tool("weather", city={"type": "string"}, days={"type": "integer"}, units={"type": "string"}),
    tool("write", path={"type": "string"}, text={"type": "string"}, lines={"type": "array"}),
    {"type": "function", "function": {"name": "now"}},
    tool("files.search-α", query={"type": "string"}),
]


def parse(
    text: str,
    thinking: bool | None = False,
    tools: Sequence[dict[str, Any]] | None = TOOLS,
    cuts: Iterable[int] = (),
    truncated: bool = False,
) -> ParsedMessage:
    """The message parsed from `text` fed in pieces that end at `cuts`; checks the deltas against it."""
    ids = map("call_{}".format, itertools.count())
    parser = OutputParser(thinking, tools, lambda: next(ids))
    deltas: list[Delta] = []
    ends = [*sorted(cuts), len(text)]
    for start, end in zip([0, *ends], ends, strict=False):
        deltas += parser.feed(text[start:end])
    message = parser.finish(truncated)
    check_deltas([*deltas, *message.deltas], message)
    return replace(message, deltas=[])


def check_deltas(deltas: list[Delta], message: ParsedMessage) -> None:
    """The deltas joined are the message; calls come in order, the first piece of each with id and name."""
    assert "".join(delta.content for delta in deltas) == message.content
    assert "".join(delta.reasoning for delta in deltas) == message.reasoning
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        kinds = [bool(delta.content), bool(delta.reasoning), delta.tool_call is not None]
        assert sum(kinds) == 1
        piece = delta.tool_call
        if piece is not None and piece.name is not None:
            assert piece.index == len(calls)
            calls.append(
                {"id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": piece.arguments}}
            )
        elif piece is not None:
            assert (piece.index, piece.id) == (len(calls) - 1, None)
            calls[-1]["function"]["arguments"] += piece.arguments
    expected = list(message.tool_calls)
    if message.incomplete_call is not None and len(calls) > len(expected):
        expected.append(message.incomplete_call)
    assert calls == expected
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in message.tool_calls)


def calls(message: ParsedMessage) -> list[tuple[str, dict[str, Any]]]:
    """(name, arguments) of the complete calls."""
    functions = [call["function"] for call in message.tool_calls]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]
