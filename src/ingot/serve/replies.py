"""OpenAI's shapes of what the engine made: whole answers, chunks of a stream, usage."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ingot.answer import ChatCompletion, Completion, TokenLogprob
from ingot.prompt import Delta, ToolCallDelta

Json = dict[str, Any]


@dataclass
class Reply:
    """One response: `completions` in the order of its choices, `n` of them to each prompt."""

    chat: bool
    model: str
    fingerprint: str
    completions: Sequence[Any]
    n: int
    include_usage: bool = False
    debug: Callable[[], Json] | None = None  # what is told at the end beside OpenAI's fields
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    _offsets: dict[int, int] = field(default_factory=dict)  # choice -> characters whose logprobs are told

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}"

    def whole(self) -> Json:
        """The response without streaming."""
        choice = _chat_choice if self.chat else _text_choice
        choices = [{"index": index, **choice(made)} for index, made in enumerate(self.completions)]
        return {**self._head(""), "choices": choices, "usage": self.usage(), **self._debug()}

    def opening(self) -> Iterator[Json]:
        """The first chunks of a stream: a chat's answers begin with their role."""
        if self.chat:
            for index in range(len(self.completions)):
                yield self._chunk(index, {"delta": {"role": "assistant", "content": ""}})

    def piece(self, index: int, piece: Any, logprobs: Sequence[TokenLogprob]) -> Json:
        """The chunk of a Delta or of a text, with the logprobs of the tokens since the last."""
        if self.chat:
            return self._chunk(index, {"delta": _delta(piece)}, _chat_logprobs(piece.logprobs))
        return self._chunk(index, {"text": piece}, self._text_logprobs(index, logprobs))

    def ending(self, index: int, logprobs: Sequence[TokenLogprob]) -> Json:
        """The chunk that says why an answer ended; a text's with the logprobs that no piece brought."""
        reason = self.completions[index].finish_reason
        if self.chat:
            return self._chunk(index, {"delta": {}}, None, reason)
        return self._chunk(index, {"text": ""}, self._text_logprobs(index, logprobs), reason)

    def last(self) -> Iterator[Json]:
        """The chunk of the usage and of what is told for debugging, if they were asked for."""
        usage = {"usage": self.usage()} if self.include_usage else {}
        if told := {**usage, **self._debug()}:
            yield {**self._head(".chunk"), "choices": [], **told}

    def usage(self) -> Json:
        """Tokens read, of each prompt once, and made."""
        read = sum(made.usage.prompt_tokens for made in self.completions[:: self.n])
        cached = sum(made.usage.cached_tokens for made in self.completions[:: self.n])
        written = sum(made.usage.completion_tokens for made in self.completions)
        reasoning = sum(made.usage.reasoning_tokens for made in self.completions)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def _debug(self) -> Json:
        return {} if self.debug is None else {"debug": self.debug()}

    def _head(self, suffix: str) -> Json:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        about = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**about, "system_fingerprint": self.fingerprint}

    def _chunk(self, index: int, said: Json, logprobs: Json | None = None, reason: str | None = None) -> Json:
        choice = {"index": index, **said, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self.include_usage else {}
        return {**self._head(".chunk"), "choices": [choice], **usage}

    def _text_logprobs(self, index: int, told: Sequence[TokenLogprob]) -> Json | None:
        if not told:
            return None
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(one.token) for one in told)
        return _text_logprobs(told, offset)


def _chat_choice(made: ChatCompletion) -> Json:
    message: Json = {"role": "assistant", "content": made.content, "refusal": None}
    if made.reasoning is not None:
        message["reasoning_content"] = made.reasoning
    if made.tool_calls:
        message["tool_calls"] = made.tool_calls
        message["content"] = made.content or None
    logprobs = None if made.logprobs is None else _chat_logprobs(made.logprobs, empty=True)
    return {"message": message, "logprobs": logprobs, "finish_reason": made.finish_reason}


def _text_choice(made: Completion) -> Json:
    logprobs = None if made.logprobs is None else _text_logprobs(made.logprobs, 0)
    return {"text": made.text, "logprobs": logprobs, "finish_reason": made.finish_reason}


def _delta(piece: Delta) -> Json:
    if piece.tool_call is not None:
        return {"tool_calls": [_tool_call(piece.tool_call)]}
    if piece.reasoning:
        return {"reasoning_content": piece.reasoning}
    return {"content": piece.content} if piece.content else {}


def _tool_call(call: ToolCallDelta) -> Json:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def _chat_logprobs(told: Sequence[TokenLogprob], empty: bool = False) -> Json | None:
    """OpenAI's `logprobs` of a message; None where there are none to tell, unless `empty`."""
    if not told and not empty:
        return None
    content = [{**_logprob(one), "top_logprobs": [_logprob(top) for top in one.top_logprobs]} for one in told]
    return {"content": content, "refusal": None}


def _logprob(one: TokenLogprob) -> Json:
    return {"token": one.token, "logprob": one.logprob, "bytes": one.bytes}


def _text_logprobs(told: Sequence[TokenLogprob], offset: int) -> Json:
    """OpenAI's `logprobs` of a completion. Where two tokens have one text, U+FFFD, its dict keeps the likelier."""
    offsets = [offset]
    for one in told[:-1]:
        offsets.append(offsets[-1] + len(one.token))
    return {
        "tokens": [one.token for one in told],
        "token_logprobs": [one.logprob for one in told],
        "top_logprobs": [{top.token: top.logprob for top in reversed(one.top_logprobs)} for one in told],
        "text_offset": offsets[: len(told)],
    }
