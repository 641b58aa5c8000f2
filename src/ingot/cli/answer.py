"""One answer of a model, painted while it comes. Ctrl-C ends the answer and keeps what was shown."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from ingot.cli.conversation import Conversation


class Painter(Protocol):
    """Who shows an answer. Texts come in pieces and in this order: reasoning, thought, content, calls."""

    def reading(self, tokens: int) -> None:
        """The model reads a prompt of so many tokens."""

    def reasoning(self, text: str) -> None: ...

    def thought(self, seconds: float, tokens: int) -> None:
        """The reasoning is over."""

    def content(self, text: str) -> None: ...

    def calls(self, tool_calls: list[dict[str, Any]]) -> None: ...

    def end(self) -> None:
        """Nothing more comes; also called after Ctrl-C."""


@dataclass
class Answer:
    """What was received; `stopped` by Ctrl-C. `usage` is the model's ingot.answer.Usage."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Any = None
    logprobs: Any = None
    seed: int | None = None
    stopped: bool = False
    thought_s: float = 0.0

    @property
    def message(self) -> dict[str, Any]:
        """The turn for the conversation."""
        turn: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            turn["reasoning_content"] = self.reasoning
        if self.tool_calls:
            turn["tool_calls"] = self.tool_calls
        return turn


def receive(model: Any, conversation: Conversation, painter: Painter) -> Answer:
    """Ask `model` for the next turn and paint it as it comes."""
    answer = Answer()
    stream = model.chat(
        conversation.for_model(),
        tools=conversation.tools,
        thinking=conversation.thinking,
        stream=True,
        **conversation.sampling,
    )
    answer.usage, answer.seed = stream.completion.usage, stream.completion.seed
    answer.logprobs = stream.completion.logprobs  # grows with the answer
    try:
        painter.reading(answer.usage.prompt_tokens)
        _drain(stream, answer, painter)
    except KeyboardInterrupt:
        answer.stopped, answer.finish_reason = True, "interrupted"
    finally:
        stream.close()
        painter.end()
    return answer


def _drain(stream: Any, answer: Answer, painter: Painter) -> None:
    since: float | None = None  # when the reasoning began; None outside of it
    for delta in stream:
        if delta.reasoning:
            since = since or time.perf_counter()
            answer.reasoning += delta.reasoning
            painter.reasoning(delta.reasoning)
            continue
        if since is not None:
            _thought(since, answer, painter)
            since = None
        if delta.content:
            answer.content += delta.content
            painter.content(delta.content)
    if since is not None:
        _thought(since, answer, painter)
    answer.finish_reason = stream.completion.finish_reason
    answer.tool_calls = stream.completion.tool_calls
    if answer.tool_calls:
        painter.calls(answer.tool_calls)


def _thought(since: float, answer: Answer, painter: Painter) -> None:
    answer.thought_s = time.perf_counter() - since
    painter.thought(answer.thought_s, answer.usage.reasoning_tokens)
