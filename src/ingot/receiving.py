"""From tokens to answers: each receiver takes an answer's tokens one by one and gives what they add to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ingot.answer import ChatCompletion, Completion, TokenLogprob
from ingot.engine import Token
from ingot.prompt import Delta, OutputParser, StreamDecoder, Tokenizer
from ingot.prompt.stop import StopText


class TextReceiver:
    """Of a continued text. `done` once nothing more is wanted."""

    def __init__(
        self, completion: Completion, stops: StopText, stop_ids: frozenset[int], tokenizer: Tokenizer | None
    ) -> None:
        self.completion, self.done = completion, False
        self._stops, self._stop_ids, self._tokenizer = stops, stop_ids, tokenizer
        self._decoder = StreamDecoder(tokenizer) if tokenizer else None

    def push(self, token: Token, began: float) -> list[str]:
        """The text that the token completes, perhaps in two pieces; `began` is when its prompt was given."""
        record(self.completion, token, began, self._tokenizer)
        ended = token.id in self._stop_ids
        pieces = [piece for piece in self._pieces(token, ended) if piece]
        self.completion.text += "".join(pieces)
        self.done = token.last or self._stops.hit
        if self.done:
            self.completion.finish_reason = "stop" if ended or self._stops.hit else "length"
        return pieces

    def _pieces(self, token: Token, ended: bool) -> Iterator[str]:
        if self._decoder is None:
            return
        if not ended:
            yield self._stops.push(self._decoder.push(token.id))
        if token.last and not self._stops.hit:
            yield self._stops.push(self._decoder.finish()) + self._stops.finish()


class ChatReceiver:
    """Of a message. `done` once nothing more is wanted; `remember` is then called with its ids but for the stop id."""

    def __init__(
        self,
        completion: ChatCompletion,
        stops: StopText,
        stop_ids: frozenset[int],
        tokenizer: Tokenizer,
        parser: OutputParser,
        remember: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        self.completion, self.done = completion, False
        self._stops, self._stop_ids, self._tokenizer, self._parser = stops, stop_ids, tokenizer, parser
        self._decoder, self._remember = StreamDecoder(tokenizer), remember
        self._reasons = bool(parser.thinking)
        self._told = 0  # logprobs that went out with a delta

    def push(self, token: Token, began: float) -> list[Delta]:
        """The pieces of the message that the token completes; with logprobs, the first brings those of the tokens since
        the last."""
        record(self.completion, token, began, self._tokenizer)
        ended = token.id in self._stop_ids
        deltas = list(self._deltas(token, ended))
        self.done = token.last or self._stops.hit
        if self.done:
            reason = "stop" if ended or self._stops.hit else "length"
            self.completion.finish_reason = "tool_calls" if self.completion.tool_calls and reason == "stop" else reason
            if self._remember is not None:
                self._remember(self.completion.ids[:-1] if ended else self.completion.ids)
        return self._with_logprobs(deltas)

    def _deltas(self, token: Token, ended: bool) -> Iterator[Delta]:
        if not ended:
            deltas = self._parser.feed(self._decoder.push(token.id))
            self._reasons = self._reasons and not any(d.content or d.tool_call for d in deltas)
            self.completion.usage.reasoning_tokens += self._reasons
            yield from self._kept(deltas)
        if token.last and not self._stops.hit:
            yield from self._finish(ended)

    def _finish(self, ended: bool) -> Iterator[Delta]:
        yield from self._kept(self._parser.feed(self._decoder.finish()))
        final = self._parser.finish(truncated=not ended)
        yield from self._kept(final.deltas)
        self.completion.tool_calls, self.completion.incomplete_call = final.tool_calls, final.incomplete_call
        if held := self._stops.finish():
            self.completion.content += held
            yield Delta(content=held)

    def _kept(self, deltas: Sequence[Delta]) -> Iterator[Delta]:
        """The deltas with their content cut at a stop string; the completion grows with them."""
        for delta in deltas:
            if self._stops.hit:
                return
            if delta.content:
                piece = self._stops.push(delta.content)
                self.completion.content += piece
                if piece:
                    yield Delta(content=piece)
            else:
                if delta.reasoning:
                    self.completion.reasoning = (self.completion.reasoning or "") + delta.reasoning
                yield delta

    def _with_logprobs(self, deltas: list[Delta]) -> list[Delta]:
        told = self.completion.logprobs
        if told is None or not (deltas or self.done):
            return deltas
        first, *rest = deltas or [Delta()]
        first = replace(first, logprobs=tuple(told[self._told :]))
        self._told = len(told)
        return [first, *rest]


def record(completion: Completion | ChatCompletion, token: Token, began: float, tokenizer: Tokenizer | None) -> None:
    """Add a token's id, time and log probability to a completion; `began` is when its prompt was given."""
    now, usage = time.perf_counter(), completion.usage
    if not completion.ids:
        usage.prefill_s = now - began
        usage.cached_tokens = token.reuse.cached if token.reuse else 0
        completion.reuse = token.reuse
    usage.decode_s = now - began - usage.prefill_s
    usage.completion_tokens += 1
    completion.ids.append(token.id)
    if completion.logprobs is not None and token.logprob is not None:
        top = tuple(_told(i, logprob, tokenizer) for i, logprob in token.top)
        completion.logprobs.append(replace(_told(token.id, token.logprob, tokenizer), top_logprobs=top))


def _told(token: int, logprob: float, tokenizer: Tokenizer | None) -> TokenLogprob:
    data = tokenizer.bytes_of([token]) if tokenizer else b""
    return TokenLogprob(data.decode("utf-8", "replace"), token, logprob, list(data))
