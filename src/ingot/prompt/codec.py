"""A model's output text to reasoning, content and tool calls, as it streams.

    reasoning </think> content <tool_call> <function=NAME> <parameter=KEY> VALUE </parameter> </function> </tool_call>

Every decision is made at a `<`, by looking ahead until no further character can change it. So the result is a function
of the text alone, never of how it was cut. Malformed output is repaired only where there is one sensible reading;
docs/why/prompt-codec.md lists the cases and what is ambiguous in the format itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ingot.prompt.lookahead import Lookahead, NeedMore
from ingot.prompt.messages import normalise_tools
from ingot.prompt.output import Delta, DeltaQueue, ParsedMessage
from ingot.prompt.text_channel import TextChannel
from ingot.prompt.tool_arguments import ParameterTypes
from ingot.prompt.tool_call import Opening, ToolCallReader, read_opening

_CALL_CLOSERS = ("</tool_call>", "</function>", "</parameter>")


def random_call_id() -> str:
    """An id for a tool call, unique in practice over all conversations."""
    return "call_" + secrets.token_hex(12)


class OutputParser:
    """Parses one answer. `feed` text as it comes, then `finish`; both hand out deltas. No text makes it raise.

    thinking: True when the prompt ended in an open `<think>` (see opens_thinking), False when it did not, None to read
    reasoning only if the answer itself starts with `<think>`. tools: the definitions given to the model; with None or
    an empty list tool-call markup stays in the content. new_id makes the ids of the calls.
    """

    def __init__(
        self,
        thinking: bool | None = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        new_id: Callable[[], str] = random_call_id,
    ) -> None:
        functions = [tool["function"] for tool in normalise_tools(tools) or ()]
        self._tools = {function["name"]: ParameterTypes(function.get("parameters")) for function in functions}
        self.thinking = thinking
        self._new_id = new_id
        self._ahead = Lookahead()
        self._reasoning = TextChannel(strip_start=True)
        self._content = TextChannel(strip_start=bool(thinking))
        self._step = self._reasoning_step if thinking else self._content_step
        self._call: ToolCallReader | None = None
        self._calls: list[dict[str, Any]] = []
        self._incomplete: dict[str, Any] | None = None
        self._after_call = False
        self._queue = DeltaQueue()
        self._warnings: list[str] = []
        self._message: ParsedMessage | None = None

    def feed(self, text: str) -> list[Delta]:
        """Takes the next piece of the answer; returns what it settles."""
        if self._message is not None:
            raise ValueError("feed was called after finish; an OutputParser parses one answer.")
        self._ahead.append(text)
        self._run()
        return self._queue.take()

    def finish(self, truncated: bool = False) -> ParsedMessage:
        """Ends the answer; truncated=True when max_tokens cut it: an unclosed call is then incomplete."""
        if self._message is None:
            self._ahead.ended = True
            self._run()
            if self._call is not None:
                self._end_call(self._call, self._call.end(truncated))
            if not self._after_call:
                self._queue.content(self._content.release_held())
            self._message = ParsedMessage(
                self._content.text,
                self._reasoning.text,
                self._calls,
                self._incomplete,
                self._warnings,
                self._queue.take(),
            )
        return self._message

    def _run(self) -> None:
        try:
            while self._ahead.remains:
                self._step()
        except NeedMore:
            pass
        if self._call is not None:
            self._queue.arguments(self._call.index, self._call.take_pending())

    # A step takes the characters before the next `<`, and then what stands there.

    def _reasoning_step(self) -> None:
        if not self._take_text(self._reasoning, self._queue.reasoning):
            return
        end = self._ahead.tag(self._ahead.at, "</think>")
        if end is not None:
            self._leave_reasoning(end)
        elif self._reasoning.empty and (end := self._ahead.tag(self._ahead.at, "<think>")) is not None:
            self._ahead.at = end  # the prompt has opened the block already
        elif not self._open_call(self._reasoning):
            self._take_bracket(self._reasoning, self._queue.reasoning)

    def _content_step(self) -> None:
        if not self._take_text(self._content, self._queue.content):
            return
        if self._content.empty and self._take_think_tag():
            return
        if self._after_call and self._take_closer():
            return
        if not self._open_call(self._content):
            self._take_bracket(self._content, self._queue.content)

    def _call_step(self) -> None:
        assert self._call is not None
        self._call.step(self._ahead)
        if self._call.closed:
            self._end_call(self._call, complete=True)

    def _take_text(self, channel: TextChannel, emit: Callable[[str], None]) -> bool:
        """Passes on the text before the next `<`; whether there is one."""
        ahead = self._ahead
        start, ahead.at = ahead.at, ahead.find("<")
        piece = ahead.text[start : ahead.at]
        self._after_call = self._after_call and not piece.strip()
        if piece:
            emit(channel.take(piece))
        return ahead.remains

    def _take_bracket(self, channel: TextChannel, emit: Callable[[str], None]) -> None:
        self._after_call = False
        emit(channel.take("<"))
        self._ahead.at += 1

    def _take_think_tag(self) -> bool:
        """Before any content: a repeated `</think>` is absorbed, and with thinking=None `<think>` opens reasoning."""
        tag = {True: "</think>", None: "<think>"}.get(self.thinking)
        end = self._ahead.tag(self._ahead.at, tag) if tag else None
        if end is None:
            return False
        self._ahead.at = end
        if self.thinking is None:
            self.thinking, self._step = True, self._reasoning_step
            self._content = TextChannel(strip_start=True)
        return True

    def _take_closer(self) -> bool:
        """Right after a call: its `</tool_call>`, and closing tags written twice."""
        ahead = self._ahead
        if not ahead.any_tag(ahead.at, *_CALL_CLOSERS):
            return False
        ends = [end for tag in _CALL_CLOSERS if (end := ahead.tag(ahead.at, tag)) is not None]
        ahead.at = ends[0] if ends else len(ahead.text)  # the answer ends inside the closing tag
        self._content.drop_held()
        return True

    def _leave_reasoning(self, at: int) -> None:
        self._reasoning.drop_held()
        self._ahead.at, self._step = at, self._content_step

    def _open_call(self, channel: TextChannel) -> bool:
        """Starts a call if one is opened at the cursor; a mention of the markup, or code in a fence, is text."""
        if not self._tools or channel.in_fence:
            return False
        opening = read_opening(self._ahead, self._tools)
        if opening is None or not self._is_meant(opening, channel):
            return False
        if channel is self._reasoning:
            self._warnings.append("a tool call inside the reasoning was taken as the end of the reasoning")
        self._leave_reasoning(opening.end)
        self._content.drop_held()
        self._content.strip_start = True
        types = self._tools.get(opening.name, ParameterTypes(None))
        call = ToolCallReader(len(self._calls), self._new_id(), opening.name, types)
        if opening.cut:
            self._incomplete = call.as_dict()
            return True
        self._queue.call(call.index, call.id, call.name)
        self._call, self._step = call, self._call_step
        return True

    def _is_meant(self, opening: Opening, channel: TextChannel) -> bool:
        """Whether markup that could open a call does: in reasoning, or without `<tool_call>`, only for a known tool."""
        if channel is self._content and opening.wrapped:
            return True
        return opening.name in self._tools and (opening.wrapped or (channel is self._content and channel.at_line_start))

    def _end_call(self, call: ToolCallReader, complete: bool) -> None:
        self._queue.arguments(call.index, call.take_pending())
        self._warnings.extend(call.warnings)
        if complete:
            self._calls.append(call.as_dict())
        else:
            self._incomplete = call.as_dict()
        self._call, self._step, self._after_call = None, self._content_step, True
