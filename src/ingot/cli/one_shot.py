"""`ingot chat -p`: the answer alone on stdout, as it comes."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from ingot.cli import pictures
from ingot.cli.answer import Answer, receive
from ingot.cli.conversation import Conversation
from ingot.cli.failure import INTERRUPTED, say
from ingot.cli.progress import Progress
from ingot.cli.screen import thought_line
from ingot.cli.terminal import Terminal
from ingot.cli.thinking import ThinkingView


def answer_once(
    model: Any,
    name: str,
    conversation: Conversation,
    show_thinking: bool | None,
    as_json: bool,
    drawing: tuple[str, Any] | None = None,
) -> int:
    """Ask once; return the exit code. show_thinking None: if stderr is a terminal and the answer not JSON. `drawing`:
    the file and the picture on which the boxes of the answer are drawn."""
    out, err = Terminal(sys.stdout), Terminal(sys.stderr)
    if conversation.sampling.get("n", 1) > 1:
        return _answer_several(model, name, conversation, out, err)
    show = err.tty and not as_json if show_thinking is None else show_thinking
    painter = _Painter(out, err, show, quiet=as_json)
    answer = receive(model, conversation, painter)
    if as_json:
        out.command(json.dumps(_record(name, answer), ensure_ascii=False) + "\n")
    if answer.stopped:
        return INTERRUPTED
    _tell_odd_ends(answer)
    if drawing:
        pictures.draw(*drawing, answer.content)
    return 0


def _answer_several(model: Any, name: str, conversation: Conversation, out: Terminal, err: Terminal) -> int:
    """A JSON object a line for each of --n answers, when all are there."""
    with Progress(err, "answering") as line:
        answers = model.chat(
            conversation.for_model(),
            tools=conversation.tools,
            thinking=conversation.thinking,
            progress=line.at,
            **conversation.sampling,
        )
    for answer in answers:
        out.command(json.dumps(_record(name, answer), ensure_ascii=False) + "\n")
    return 0


class _Painter:
    """Content on stdout, reasoning on stderr; with `quiet` nothing at all."""

    def __init__(self, out: Terminal, err: Terminal, show_thinking: bool, quiet: bool) -> None:
        self.out, self.err, self.quiet = out, err, quiet
        self.thinking = ThinkingView(err, show=show_thinking)
        self._line = Progress(err, "")
        self._last = "\n"

    def reading(self, tokens: int) -> None:
        self._line = Progress(self.err, f"reading {tokens:,} tokens")
        self._line.__enter__()

    def reasoning(self, text: str) -> None:
        if self.thinking.show:
            self._line.stop()
        else:
            self._line.text = "thinking"
        self.thinking.feed(text)

    def thought(self, seconds: float, tokens: int) -> None:
        self._line.stop()
        if self.thinking.show:
            self.thinking.done(thought_line(seconds, tokens))

    def content(self, text: str) -> None:
        if not self.quiet:
            self._line.stop()
            self._last = text
            self.out.write(text)

    def calls(self, tool_calls: list[dict[str, Any]]) -> None:
        self._line.stop()
        if self.quiet:
            return
        self._end_line()
        for call in tool_calls:
            self.out.write(json.dumps(call["function"], ensure_ascii=False) + "\n")

    def end(self) -> None:
        self._line.stop()
        self.thinking.erase()
        self._end_line()

    def _end_line(self) -> None:
        if not self._last.endswith("\n"):
            self.out.command("\n")
            self._last = "\n"


def _record(name: str, answer: Any) -> dict[str, Any]:
    """Of an Answer or a ChatCompletion."""
    usage = dataclasses.asdict(answer.usage)
    told = answer.logprobs
    return {
        "model": name,
        "content": answer.content,
        "reasoning": answer.reasoning or None,
        "tool_calls": answer.tool_calls,
        "finish_reason": answer.finish_reason,
        "seed": answer.seed,
        **({} if told is None else {"logprobs": [dataclasses.asdict(each) for each in told]}),
        "usage": {name: round(value, 6) for name, value in usage.items()},
    }


def _tell_odd_ends(answer: Answer) -> None:
    if answer.finish_reason == "length":
        count = f"{answer.usage.completion_tokens:,} tokens"
        if answer.content.strip() or answer.tool_calls:
            say(f"warning: the answer was cut after {count}\nhint: --max-tokens sets the limit")
        else:
            say(f"warning: no answer after {count} of thinking\nhint: raise --max-tokens, or use --no-think")
    elif not answer.content.strip() and not answer.tool_calls:
        say("warning: the model ended its turn without an answer")
