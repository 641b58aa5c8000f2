"""Where words meet ids: a loaded model that encodes, scores, continues and chats."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ingot.answer import ChatCompletion, Completion, Prompt, Stream, Usage
from ingot.engine import Engine, Request, SamplingParams, Visual
from ingot.prompt import (
    ChatTemplate,
    Delta,
    Medium,
    OutputParser,
    StreamDecoder,
    Tokenizer,
    opens_thinking,
    render_with_media,
)
from ingot.prompt.media import Picture, Preprocessor, expand, open_image
from ingot.prompt.stop import StopText, checked_stops
from ingot.spec import Config
from ingot.spec.presets import sampling_preset

Messages = Sequence[Mapping[str, Any]]
# What a checkpoint's generation_config.json may set for us; the rest of it configures other libraries.
SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
# Tokens an answer may have unless the caller says: a raw continuation may never stop by itself; a conversation does,
# and the model cards advise 32k.
GENERATE_TOKENS, CHAT_TOKENS = 256, 32_768


class LanguageModel:
    """A model ready to answer; made by `ingot.load`. Not for several threads at once."""

    def __init__(
        self,
        path: Path,
        engine: Engine,
        tokenizer: Tokenizer | None = None,
        template: ChatTemplate | None = None,
        generation_config: Mapping[str, Any] | None = None,
        eos_ids: Sequence[int] = (),
        cache_file: Path | None = None,
        preprocessor: Preprocessor | None = None,
    ) -> None:
        self.path, self.engine, self.tokenizer, self.template = path, engine, tokenizer, template
        self.preprocessor = preprocessor  # of pictures; None: this model sees none
        self.cache_file = cache_file  # what loading wrote for the next start
        self.checkpoint: Any = None  # what `ingot.load` read it from, and the format in which it holds the matrices
        self.weights = ""
        self.generation_config = dict(generation_config or {})
        self.stop_ids = tokenizer.stop_ids(eos_ids) if tokenizer else frozenset(eos_ids)

    @property
    def config(self) -> Config:
        """The checkpoint's configuration."""
        return self.engine.config

    def encode(
        self,
        text: str | Messages,
        tools: Messages | None = None,
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> Prompt:
        """The token ids and positions of a text (as it is) or of messages (rendered by the checkpoint's chat template).

        thinking None keeps the template's default; `variables` go to the template. Messages may hold pictures, as
        content parts {"type": "image", "image": path, bytes, PIL image or array} or OpenAI's image_url with a path or
        data: URL, and videos, {"type": "video", "video": list of frames, "fps": 2}. Control tokens written in the text
        are control tokens, as everywhere in this ecosystem.
        """
        tokenizer = self._tokenizer()
        media: list[Medium] = []
        if not isinstance(text, str):
            text, media = render_with_media(text, tools, self.template, add_generation_prompt, thinking, **variables)
        ids = tokenizer.encode(text)
        if not media:
            return Prompt(ids, _text_positions(len(ids)), text)
        pictures = [self._picture(medium) for medium in media]
        expanded = expand(np.asarray(ids), pictures, self.config, tokenizer.encode)
        visuals = tuple(
            Visual(rows, picture.grid, picture.patches, picture.digest)
            for rows, picture in zip(expanded.rows, pictures, strict=True)
        )
        return Prompt(expanded.ids, expanded.positions, text, visuals)

    def logits(self, prompt: str | Sequence[int] | Prompt, chunk: int | None = None) -> np.ndarray:
        """float32 [T, vocab_size]: each token's prediction of the next. `chunk` tokens a pass: 1 decodes, None
        picks."""
        prompt = self._prompt(prompt)
        return self.engine.logits(prompt.ids, prompt.positions, chunk, prompt.visuals)

    def generate(
        self,
        prompt: str | Sequence[int] | Prompt,
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] = (),
        stream: bool = False,
        **sampling: Any,
    ) -> Any:
        """The continuation of a text or ids: a Completion, or with stream=True a Stream of strings.

        `sampling`: temperature (0: greedy), top_k, top_p, min_p, presence_penalty, frequency_penalty,
        repetition_penalty, seed; what is not given comes from generation_config.json or else the model card. Ends at a
        stop id of the model, at `stop` strings or `stop_token_ids`, after max_tokens (256), or at the end of the
        context. A prompt given as ids may lack a tokenizer: the text is then empty.
        """
        prompt = self._prompt(prompt)
        stops = StopText(checked_stops(stop))
        request = self._request(
            prompt,
            GENERATE_TOKENS if max_tokens is None else max_tokens,
            stop_token_ids,
            self._sampling(False, sampling),
        )
        completion = Completion(usage=Usage(prompt_tokens=len(prompt.ids)))
        tokens = _timed(self.engine.generate(request), completion.ids, completion.usage)
        stream_of_text: Stream[str, Completion] = Stream(self._continue(tokens, request, stops, completion), completion)
        return stream_of_text if stream else stream_of_text.finish()

    def chat(
        self,
        messages: Messages,
        tools: Messages | None = None,
        thinking: bool | None = None,
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] = (),
        stream: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Any:
        """The next turn of a conversation: a ChatCompletion, or with stream=True a Stream of `Delta`s.

        Messages and tools are OpenAI's; `chat_template_kwargs` are the template's own variables, as preserve_thinking
        of Qwen3.6's. Sampling as in `generate`, by the card's values for the thinking mode. `stop`
        strings are looked for in the content, not in reasoning or tool calls.
        """
        prompt = self.encode(messages, tools, thinking, **chat_template_kwargs or {})
        thinks = opens_thinking(prompt.text)
        stops = StopText(checked_stops(stop))
        request = self._request(
            prompt, CHAT_TOKENS if max_tokens is None else max_tokens, stop_token_ids, self._sampling(thinks, sampling)
        )
        completion = ChatCompletion(usage=Usage(prompt_tokens=len(prompt.ids)))
        tokens = _timed(self.engine.generate(request), completion.ids, completion.usage)
        parser = OutputParser(thinking=thinks, tools=list(tools) if tools else None)
        stream_of_deltas: Stream[Delta, ChatCompletion] = Stream(
            self._converse(tokens, request, stops, parser, completion), completion
        )
        return stream_of_deltas if stream else stream_of_deltas.finish()

    def _continue(
        self, tokens: Iterator[int], request: Request, stops: StopText, completion: Completion
    ) -> Iterator[str]:
        ended = False
        decoder = StreamDecoder(self.tokenizer) if self.tokenizer else None
        for token in tokens:
            ended = token in request.stop_ids
            if decoder is None or ended:
                continue
            piece = stops.push(decoder.push(token))
            completion.text += piece
            if piece:
                yield piece
            if stops.hit:
                break
        else:
            rest = stops.push(decoder.finish()) + stops.finish() if decoder else ""
            completion.text += rest
            if rest:
                yield rest
        completion.finish_reason = "stop" if ended or stops.hit else "length"

    def _converse(
        self, tokens: Iterator[int], request: Request, stops: StopText, parser: OutputParser, completion: ChatCompletion
    ) -> Iterator[Delta]:
        ended, decoder = False, StreamDecoder(self._tokenizer())
        reasoning = bool(parser.thinking)
        for token in tokens:
            ended = token in request.stop_ids
            if ended:
                break
            deltas = parser.feed(decoder.push(token))
            reasoning = reasoning and not any(d.content or d.tool_call for d in deltas)
            completion.usage.reasoning_tokens += reasoning
            yield from _kept(deltas, stops, completion)
            if stops.hit:
                break
        if not stops.hit:
            yield from _kept(parser.feed(decoder.finish()), stops, completion)
            final = parser.finish(truncated=not ended)
            yield from _kept(final.deltas, stops, completion)
            completion.tool_calls, completion.incomplete_call = final.tool_calls, final.incomplete_call
            if held := stops.finish():
                completion.content += held
                yield Delta(content=held)
        reason = "stop" if ended or stops.hit else "length"
        completion.finish_reason = "tool_calls" if completion.tool_calls and reason == "stop" else reason

    def _request(
        self, prompt: Prompt, max_tokens: int, stop_token_ids: Sequence[int], sampling: SamplingParams
    ) -> Request:
        for i in stop_token_ids:
            if not isinstance(i, int | np.integer) or isinstance(i, bool):
                raise ValueError(f"stop_token_ids holds {i!r}; token ids are integers")
        stop_ids = self.stop_ids | set(map(int, stop_token_ids))
        return Request(prompt.ids, prompt.positions, sampling, max_tokens, stop_ids, prompt.visuals)

    def _picture(self, medium: Medium) -> Picture:
        if self.preprocessor is None:
            raise ValueError(f"{medium.where}: this model reads text only; it was made without a vision tower")
        try:
            if medium.kind == "image":
                return self.preprocessor.image(open_image(medium.source), medium.max_pixels)
            frames = [open_image(frame) for frame in _frames(medium.source)]
            seconds = [i / (medium.fps or 24.0) for i in range(len(frames))]
            return self.preprocessor.video(frames, seconds, medium.max_pixels)
        except ValueError as error:
            raise ValueError(f"{medium.where}: {error}") from None

    def _sampling(self, thinking: bool, given: Mapping[str, Any]) -> SamplingParams:
        unknown = sorted(set(given) - {*SAMPLING_FIELDS, "seed"})
        if unknown:
            raise ValueError(f"{unknown[0]} is not a parameter; sampling takes {', '.join(SAMPLING_FIELDS)}, seed")
        own = {k: v for k, v in self.generation_config.items() if k in SAMPLING_FIELDS and v is not None}
        if self.generation_config.get("do_sample") is False:
            own = {"temperature": 0}
        defaults = own or sampling_preset(self.config.text, thinking)
        return SamplingParams(**{**defaults, **{k: v for k, v in given.items() if v is not None}})

    def _prompt(self, prompt: str | Sequence[int] | Prompt) -> Prompt:
        if isinstance(prompt, Prompt):
            return prompt
        if isinstance(prompt, str):
            return self.encode(prompt)
        if prompt is None or isinstance(prompt, bytes | Mapping):
            raise ValueError(f"prompt is {type(prompt).__name__}; a text, token ids or a Prompt is needed")
        ids = np.asarray(prompt)
        return Prompt(ids, _text_positions(ids.size))

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(
                f"{self.path}: holds no tokenizer.json or vocab.json, so this model takes token ids, not text"
            )
        return self.tokenizer


def _frames(source: Any) -> Any:
    if isinstance(source, Sequence | np.ndarray) and not isinstance(source, str | bytes):
        return source
    raise ValueError(
        f"a video is a {type(source).__name__}; a list of frames is needed, for Ingot opens no video files"
    )


def _text_positions(tokens: int) -> np.ndarray:
    return np.tile(np.arange(tokens, dtype=np.int32), (3, 1))


def _timed(tokens: Iterator[int], ids: list[int], usage: Usage) -> Iterator[int]:
    """The same tokens, collected and timed."""
    start = time.perf_counter()
    for token in tokens:
        now = time.perf_counter()
        if not ids:
            usage.prefill_s = now - start
        usage.decode_s = now - start - usage.prefill_s
        ids.append(token)
        usage.completion_tokens += 1
        yield token


def _kept(deltas: Sequence[Delta], stops: StopText, completion: ChatCompletion) -> Iterator[Delta]:
    """The deltas with their content cut at a stop string; the completion grows with them."""
    for delta in deltas:
        if stops.hit:
            return
        if delta.content:
            piece = stops.push(delta.content)
            completion.content += piece
            if piece:
                yield Delta(content=piece)
        else:
            if delta.reasoning:
                completion.reasoning = (completion.reasoning or "") + delta.reasoning
            yield delta
