"""The output parser: no text makes it raise, however it is cut, and nothing is lost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ingot.prompt import Delta, OutputParser, ParsedMessage
from tools.fuzz.target import sections


def _tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": parameters}}}


TOOLS = [
    _tool("weather", city={"type": "string"}, days={"type": "integer"}, units={"enum": ["C", 1, None]}),
    _tool("write", path={"type": "string"}, lines={"type": "array"}, about={"anyOf": [{"type": "object"}, {}]}),
    {"type": "function", "function": {"name": "now"}},
]


_SHORT = 200  # characters; longer texts are not fed one by one


def run_parser(data: bytes) -> None:
    """`@options`: bytes that choose thinking, tools and whether the answer was cut; `@text`: the answer."""
    given = sections(data)
    options = given.get("options", b"") + b"0000"
    text = given.get("text", data).decode("utf-8", "replace")
    thinking = (False, True, None)[options[0] % 3]
    tools = TOOLS if options[1] % 4 else None
    whole = _parse(text, thinking, tools, (), bool(options[2] % 2))
    for size in (1, 2 + options[3] % 30) if len(text) < _SHORT else (7 + options[3] % 30,):
        assert _parse(text, thinking, tools, range(size, len(text), size), bool(options[2] % 2)) == whole, (
            f"cut into pieces of {size} the message is another"
        )
    _check_nothing_lost(text, thinking, tools, whole)


def _parse(text: str, thinking: bool | None, tools: Any, cuts: Iterable[int], truncated: bool) -> ParsedMessage:
    ids = map("call_{}".format, itertools.count())
    parser, deltas = OutputParser(thinking, tools, lambda: next(ids)), []
    ends = [*cuts, len(text)]
    for start, end in zip([0, *ends], ends, strict=False):
        deltas += parser.feed(text[start:end])
    message = parser.finish(truncated)
    _check_deltas([*deltas, *message.deltas], message)
    return replace(message, deltas=[])


def _check_deltas(deltas: list[Delta], message: ParsedMessage) -> None:
    assert "".join(delta.content for delta in deltas) == message.content
    assert "".join(delta.reasoning for delta in deltas) == message.reasoning
    arguments: dict[int, str] = {}
    for delta in deltas:
        if delta.tool_call is not None:
            index = delta.tool_call.index
            arguments[index] = arguments.get(index, "") + delta.tool_call.arguments
    for index, call in enumerate(message.tool_calls):
        assert arguments[index] == call["function"]["arguments"]
        assert isinstance(json.loads(arguments[index]), dict)


def _check_nothing_lost(text: str, thinking: bool | None, tools: Any, message: ParsedMessage) -> None:
    """Without markup the text is the message, but for whitespace at its edges."""
    if thinking is False and not tools:
        assert message.content == text
    if "<" not in text:
        kept = message.reasoning if thinking else message.content
        assert kept.strip() == text.strip()
    if not message.tool_calls and message.incomplete_call is None and not message.warnings:
        length = len("".join((message.content + message.reasoning).split()))
        assert length >= len("".join(text.split())) - text.count("<") * len("</tool_call>")
