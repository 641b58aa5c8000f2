"""Reading one tool call: whether a call opens here, and its parameters, as JSON text that grows."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from ingot.prompt.lookahead import Lookahead
from ingot.prompt.tool_arguments import ArgumentsText, ParameterTypes
from ingot.prompt.tool_value import ValueReader

_REPEATS = 4  # of one opening tag; more are text


@dataclass(frozen=True, slots=True)
class Opening:
    """A call that opens: the name, where its body starts, whether `<tool_call>` stands before it, and whether the text
    ended before the body, perhaps inside the name."""

    name: str
    end: int
    wrapped: bool
    cut: bool


def read_opening(ahead: Lookahead, known: Container[str]) -> Opening | None:
    """The call that opens at the cursor, or None: in prose, `<tool_call>` and `<function=` have no body after them."""
    at, wrapped = ahead.at, False
    for _ in range(_REPEATS):
        end = ahead.tag(at, "<tool_call>")
        if end is None:
            break
        at, wrapped = ahead.spaces(end), True
    for _ in range(_REPEATS):
        end = ahead.tag(at, "<function=")
        found = ahead.name(end) if end is not None else None
        if found is None:
            return None
        name, at = found
        if ahead.tag(at, "<function=") is None:  # else a name without `>` and at once another: the last one counts
            return _read_body_start(ahead, matching(name, known), at, wrapped)
    return None


def _read_body_start(ahead: Lookahead, name: str, at: int, wrapped: bool) -> Opening | None:
    if ahead.ends(at):
        return Opening(name, at, wrapped, cut=True)
    at = ahead.spaces(at + 1 if ahead.text[at] == ">" else at)
    tags = ("<parameter=", "</parameter>", "</function>", "</tool_call>")
    if not ahead.any_tag(at, *tags):
        return None
    cut = not any(ahead.text.startswith(tag, at) for tag in tags)
    return Opening(name, len(ahead.text) if cut else at, wrapped, cut)


def matching(name: str, known: Container[str]) -> str:
    """`name`, or `name` without quotation marks if only that is known."""
    bare = name.strip("\"'")
    return bare if bare in known and name not in known else name


class ToolCallReader:
    """Reads the body of one call, from behind its name to `</function>`."""

    def __init__(self, index: int, call_id: str, name: str, types: ParameterTypes) -> None:
        self.index, self.id, self.name = index, call_id, name
        self.closed = False
        self.warnings: list[str] = []
        self._types = types
        self._arguments = ArgumentsText()
        self._pending: list[str] = []
        self._seen: set[str] = set()
        self._value: ValueReader | None = None
        self._parameter = ""
        self._streams = False  # a text is passed on as it comes; any other type is converted when it has ended
        self._ignored = False
        self._broken_off = False

    def step(self, ahead: Lookahead) -> None:
        """Reads on from the cursor, moving it; NeedMore when it has to wait. `closed` is set at the call's end."""
        if self._value is None:
            self._between_values(ahead)
        elif self._value.read(ahead):
            self._close_value(self._value)

    def take_pending(self) -> str:
        """The arguments' JSON text that has become known since the last time."""
        if self._value is not None and self._streams:
            self._stream(self._value)
        pending = "".join(self._pending)
        self._pending.clear()
        return pending

    def end(self, truncated: bool) -> bool:
        """The answer has ended: whether the call is complete, as it is if nothing but closing tags is missing."""
        if not self.closed and not truncated and self._value is None and not self._broken_off:
            self._close("a tool call that the answer ended in was taken as complete")
        return self.closed

    def as_dict(self) -> dict[str, Any]:
        """The call in OpenAI's form."""
        function = {"name": self.name, "arguments": self._arguments.text}
        return {"id": self.id, "type": "function", "function": function}

    def _between_values(self, ahead: Lookahead) -> None:
        while ahead.remains and ahead.text[ahead.at] in " \t\r\n":
            ahead.at += 1
        if not ahead.remains:
            return
        if (end := ahead.tag(ahead.at, "<parameter=")) is not None:
            self._open_value(ahead, end)
        elif (end := ahead.tag(ahead.at, "</parameter>")) is not None:
            ahead.at = end
        elif (end := ahead.tag(ahead.at, "</function>")) is not None:
            ahead.at = end
            self._close()
        elif any(ahead.tag(ahead.at, tag) is not None for tag in ("</tool_call>", "<tool_call>", "<function=")):
            self._close("a tool call without </function> was taken as complete")
        else:
            self._skip_stray_text(ahead)

    def _skip_stray_text(self, ahead: Lookahead) -> None:
        ahead.at += 1
        ahead.at = ahead.find("<")
        self._warn("text between the parameters of a tool call was left out")

    def _open_value(self, ahead: Lookahead, at: int) -> None:
        name, at = ahead.name(at) or ("", at)
        if ahead.ends(at):
            ahead.at, self._broken_off = len(ahead.text), True
            return
        name = matching(name, self._types)
        ahead.at = at + 1 if ahead.text[at] == ">" else at
        self._open_parameter(name)

    def _open_parameter(self, name: str) -> None:
        self._parameter = name
        self._ignored = not name or name in self._seen
        self._streams = not self._ignored and self._types.is_text(name)
        self._seen.add(name)
        self._value = ValueReader(self._expects)
        if self._ignored:
            self._warn(f"parameter {name!r} of a tool call, nameless or given before, was left out")
            return
        self._pending.append(self._arguments.name(name))
        if self._streams:
            self._pending.append(self._arguments.quote())

    def _expects(self, name: str) -> bool:
        name = matching(name, self._types)
        return name not in self._seen and (name in self._types or not self._types.declares)

    def _stream(self, value: ValueReader) -> None:
        if value.pieces:
            self._pending.append(self._arguments.characters("".join(value.pieces)))
            value.pieces.clear()

    def _close_value(self, value: ValueReader) -> None:
        if self._streams:
            self._stream(value)
            self._pending.append(self._arguments.quote())
        elif not self._ignored:
            converted = self._types.value(self._parameter, "".join(value.pieces))
            self._pending.append(self._arguments.value(converted))
        self._value = None

    def _close(self, warning: str = "") -> None:
        self._pending.append(self._arguments.end())
        self.closed = True
        if warning:
            self._warn(warning)

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)
