"""What a model's answer is made of: the pieces of a stream, and the finished message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of one tool call. The first piece of a call has `id` and `name`, no other has; `arguments` of all pieces
    joined are the JSON text of the arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer: reasoning text, content text or a piece of a tool call; exactly one of them.

    `logprobs`, if they were asked for, are those of the tokens since the piece before; the last piece of an answer may
    have nothing else.
    """

    reasoning: str = ""
    content: str = ""
    tool_call: ToolCallDelta | None = None
    logprobs: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """A finished answer.

    `tool_calls` are complete calls in OpenAI's form (`arguments` is JSON text of an object). A call that the answer
    ended in is `incomplete_call`, in the same form but with `arguments` cut off: it must not be run. `warnings` say
    where the model's format was repaired. `deltas` are the last pieces, which only the end of the answer released.
    """

    content: str
    reasoning: str
    tool_calls: list[dict[str, Any]]
    incomplete_call: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)

    def as_message(self) -> dict[str, Any]:
        """The answer as an OpenAI assistant message, to be appended to the conversation; without an incomplete call."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


class DeltaQueue:
    """Collects the pieces of one feed; neighbours of the same kind become one delta."""

    def __init__(self) -> None:
        self._entries: list[tuple[object, list[str]]] = []

    def reasoning(self, text: str) -> None:
        self._add("reasoning", text)

    def content(self, text: str) -> None:
        self._add("content", text)

    def call(self, index: int, call_id: str, name: str) -> None:
        self._entries.append((ToolCallDelta(index, call_id, name), []))

    def arguments(self, index: int, text: str) -> None:
        self._add(index, text)

    def take(self) -> list[Delta]:
        """The deltas collected since the last time."""
        deltas = [_delta(kind, "".join(pieces)) for kind, pieces in self._entries]
        self._entries = []
        return deltas

    def _add(self, kind: object, text: str) -> None:
        if not text:
            return
        if self._entries and self._entries[-1][0] == kind:
            self._entries[-1][1].append(text)
        else:
            self._entries.append((kind, [text]))


def _delta(kind: object, text: str) -> Delta:
    if isinstance(kind, ToolCallDelta):
        return Delta(tool_call=kind)
    if isinstance(kind, int):
        return Delta(tool_call=ToolCallDelta(kind, arguments=text))
    return Delta(reasoning=text) if kind == "reasoning" else Delta(content=text)
