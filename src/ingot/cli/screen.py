"""How an answer looks in the interactive chat."""

from __future__ import annotations

import json
from typing import Any

from ingot.cli.answer import Answer
from ingot.cli.progress import Progress
from ingot.cli.terminal import Terminal, harmless
from ingot.cli.thinking import ThinkingView


class ScreenPainter:
    """Paints one answer on `terminal`: thinking dimmed and folded, content as it comes."""

    def __init__(self, terminal: Terminal, fold: bool, show_thinking: bool) -> None:
        self.terminal = terminal
        self.thinking = ThinkingView(terminal, fold, show_thinking)
        self._waiting: Progress | None = None
        self._open = False  # the cursor stands in a line of content
        self._thinks = False

    def reading(self, tokens: int) -> None:
        self._wait(f"reading {tokens:,} tokens")

    def reasoning(self, text: str) -> None:
        if self._thinks and not self.thinking.show:
            return
        self._stop_waiting()
        self._thinks = True
        if not self.thinking.show:
            self._wait("thinking")
        self.thinking.feed(text)

    def thought(self, seconds: float, tokens: int) -> None:
        self._stop_waiting()
        self._thinks = False
        self.thinking.done(thought_line(seconds, tokens))

    def content(self, text: str) -> None:
        self._stop_waiting()
        self.terminal.write(text)
        self._open = not text.endswith("\n")

    def calls(self, tool_calls: list[dict[str, Any]]) -> None:
        self._stop_waiting()
        self._close_line()
        for call in tool_calls:
            self.terminal.dim(f"calls {call_line(call)}\n")

    def end(self) -> None:
        self._stop_waiting()
        if self._thinks:  # stopped in the middle of it
            self.thinking.erase()
        self._close_line()

    def _close_line(self) -> None:
        if self._open:
            self.terminal.command("\n")
            self._open = False

    def _wait(self, text: str) -> None:
        self._waiting = Progress(self.terminal, text)
        self._waiting.__enter__()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None


def thought_line(seconds: float, tokens: int) -> str:
    """`thought for 1.2 s, 53 tokens`."""
    return f"thought for {seconds:.1f} s, {tokens:,} token{'' if tokens == 1 else 's'}"


def call_line(call: dict[str, Any]) -> str:
    """`weather({"city": "Paris"})`."""
    function = call["function"]
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"{function['name']}({text})"


def summary_line(answer: Answer) -> str:
    """What an answer was and took: `2 tokens, 210 tokens/s · read 31 in 0.02 s`, or `read 9 of 31` where the prefix
    cache had the rest; and how it ended if not by itself."""
    usage = answer.usage
    speed = f", {_figure(usage.tokens_per_second)} tokens/s" if usage.completion_tokens > 1 and usage.decode_s else ""
    counted = f"{usage.completion_tokens:,} token{'' if usage.completion_tokens == 1 else 's'}{speed}"
    of = f"{usage.prompt_tokens - usage.cached_tokens:,} of " if usage.cached_tokens else ""
    parts = [counted, f"read {of}{usage.prompt_tokens:,} in {_figure(usage.prefill_s)} s"]
    if answer.stopped:
        parts.insert(0, "stopped")
    elif answer.finish_reason == "length":
        parts.insert(0, "cut at the token limit (/set max_tokens)")
    elif not answer.content.strip() and not answer.tool_calls:
        parts.insert(0, "an empty answer")
    return " · ".join(harmless(part) for part in parts)


def _figure(value: float) -> str:
    """A figure with two decimals below ten, one below a hundred, none above."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
