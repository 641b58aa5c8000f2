"""Where words meet ids: a loaded model that encodes, scores, continues and chats."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ingot.answer import ChatCompletion, Completion, Prompt, Stream, Usage
from ingot.engine import Engine, Request, Scheduler, Visual, answer_seed
from ingot.engine.engine import is_count
from ingot.options import DRY_BREAKERS, Options
from ingot.prompt import (
    ChatTemplate,
    Medium,
    OutputParser,
    Tokenizer,
    opens_thinking,
    render_with_media,
)
from ingot.prompt.media import Picture, Preprocessor, expand, open_image
from ingot.receiving import ChatReceiver, TextReceiver
from ingot.spec import Config
from ingot.spec.presets import preset_thinking

Messages = Sequence[Mapping[str, Any]]
# Tokens an answer may have unless the caller says: a raw continuation may never stop by itself; a conversation does,
# and the model cards advise 32k.
GENERATE_TOKENS, CHAT_TOKENS = 256, 32_768
BATCH = 8  # answers that run together unless the caller says
Progress = Callable[[int, int], None]


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
        prompt: str | Prompt | Sequence[int] | Sequence[str | Prompt | Sequence[int]],
        *,
        max_tokens: int | None = None,
        n: int = 1,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] = (),
        min_tokens: int = 0,
        ignore_eos: bool = False,
        logprobs: bool = False,
        top_logprobs: int = 0,
        preset: str | None = None,
        dry_sequence_breakers: Sequence[str] = DRY_BREAKERS,
        stream: bool = False,
        batch_size: int | None = None,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Any:
        """The continuation of a text or ids: a Completion, or with stream=True a Stream of strings.

        A list of texts, Prompts or lists of ids gives the list of their Completions, in order; they run together,
        `batch_size` answers at a time, and each has the ids that it has alone (native backend). `n` above 1 gives a
        list where one Completion would stand: answer i is the one that seed + i gives. A stream of several answers has
        pairs (number of the answer, piece). `progress` is called with (answers that ended, answers in all).

        `sampling`: temperature (0: greedy), top_k, top_p, min_p, presence_penalty, frequency_penalty,
        repetition_penalty, logit_bias, no_repeat_ngram_size, dry_multiplier, dry_base, dry_allowed_length, seed
        (ingot.engine.SamplingParams defines them). What is not given comes from `preset`, a task of the model card,
        or else from generation_config.json or the card.

        Ends at a stop id of the model (never with ignore_eos), at `stop` strings or `stop_token_ids`, after max_tokens
        (256), or at the end of the context; no stop id is chosen before min_tokens. `logprobs` tells how likely the
        model itself found each token, before anything that steers the choice, and the top_logprobs (0 to 20) likeliest.
        A prompt given as ids may lack a tokenizer: the text is then empty.
        """
        options = Options(
            GENERATE_TOKENS if max_tokens is None else max_tokens,
            n,
            stop,
            stop_token_ids,
            min_tokens,
            ignore_eos,
            logprobs,
            top_logprobs,
            preset,
            dry_sequence_breakers,
            sampling,
        )
        several = _are_prompts(prompt)
        jobs = []
        for where, one in _each("prompts", prompt, several):
            with _named(where):
                given = self._prompt(one)
                jobs.append((where, self._request(given, options, self._thinks_of(given, preset))))

        def receiver(job: int, request: Request, seed: int | None) -> TextReceiver:
            completion = Completion(**_begun(request, seed))
            return TextReceiver(completion, options.stops(), request.stop_ids, self.tokenizer)

        return self._answer(jobs, receiver, several, stream, batch_size, progress)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        tools: Messages | None = None,
        thinking: bool | None = None,
        *,
        max_tokens: int | None = None,
        n: int = 1,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] = (),
        min_tokens: int = 0,
        ignore_eos: bool = False,
        logprobs: bool = False,
        top_logprobs: int = 0,
        preset: str | None = None,
        dry_sequence_breakers: Sequence[str] = DRY_BREAKERS,
        stream: bool = False,
        batch_size: int | None = None,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Any:
        """The next turn of a conversation: a ChatCompletion, or with stream=True a Stream of `Delta`s.

        Messages and tools are OpenAI's; a list of conversations gives the list of their turns. The parameters are those
        of `generate`, by the card's values for the thinking mode; max_tokens is 32,768. A `preset` that the card has
        for one mode only decides about thinking where `thinking` is None. `stop` strings are looked for in the content,
        not in reasoning or tool calls.
        """
        options = Options(
            CHAT_TOKENS if max_tokens is None else max_tokens,
            n,
            stop,
            stop_token_ids,
            min_tokens,
            ignore_eos,
            logprobs,
            top_logprobs,
            preset,
            dry_sequence_breakers,
            sampling,
        )
        if preset is not None and thinking is None:
            thinking = preset_thinking(self.config.text, preset)
        several = _are_conversations(messages)
        jobs, thoughts = [], []
        for where, one in _each("messages", messages, several):
            with _named(where):
                prompt = self.encode(one, tools, thinking)
                thoughts.append(opens_thinking(prompt.text))
                jobs.append((where, self._request(prompt, options, thoughts[-1])))

        def receiver(job: int, request: Request, seed: int | None) -> ChatReceiver:
            parser = OutputParser(thinking=thoughts[job], tools=list(tools) if tools else None)
            completion = ChatCompletion(**_begun(request, seed))
            return ChatReceiver(completion, options.stops(), request.stop_ids, self._tokenizer(), parser)

        return self._answer(jobs, receiver, several, stream, batch_size, progress)

    def _answer(
        self,
        jobs: list[tuple[str, Request]],
        receiver: Callable[[int, Request, int | None], Any],
        several: bool,
        stream: bool,
        batch_size: int | None,
        progress: Progress | None,
    ) -> Any:
        """Every request is checked, then all run together."""
        if batch_size is not None and not is_count(batch_size):
            raise ValueError(f"batch_size is {batch_size!r}; it must be a positive number of answers")
        scheduler = self.engine.scheduler(batch_size or BATCH)
        receivers: list[Any] = []
        completions: list[Any] = []
        for job, (where, request) in enumerate(jobs):
            with _named(where):
                scheduler.add(request)
            seed = request.sampling.seed
            seeds = [None if seed is None else answer_seed(seed, i) for i in range(request.n)]
            mine = [receiver(job, request, seed) for seed in seeds]
            receivers += mine
            answers = [each.completion for each in mine]
            completions.append(answers if request.n > 1 else answers[0])
        pieces = _run(scheduler, receivers, progress)
        result: Any = completions if several else completions[0]
        alone = len(receivers) == 1 and not several
        made: Stream[Any, Any] = Stream(_alone(pieces) if alone else pieces, result)
        return made if stream else made.finish()

    def _request(self, prompt: Prompt, options: Options, thinking: bool) -> Request:
        own = self.stop_ids
        return Request(
            prompt.ids,
            prompt.positions,
            options.params(self.config.text, self.generation_config, thinking),
            options.max_tokens,
            own | set(map(int, options.stop_token_ids)),
            prompt.visuals,
            options.n,
            options.min_tokens,
            own - set(map(int, options.stop_token_ids)) if options.ignore_eos else frozenset(),
            options.top_logprobs if options.logprobs else None,
            options.breaks(self.tokenizer),
        )

    def _thinks_of(self, prompt: Prompt, preset: str | None) -> bool:
        """The mode whose values a continuation takes: without thinking, unless the preset or the prompt is for it."""
        mode = None if preset is None else preset_thinking(self.config.text, preset)
        return opens_thinking(prompt.text) and preset is not None if mode is None else mode

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


def _begun(request: Request, seed: int | None) -> dict[str, Any]:
    """What a completion begins with."""
    logprobs: list[Any] | None = None if request.logprobs is None else []
    return {"usage": Usage(prompt_tokens=len(request.ids)), "seed": seed, "logprobs": logprobs}


def _run(scheduler: Scheduler, receivers: Sequence[Any], progress: Progress | None) -> Generator[tuple[int, Any]]:
    """The pieces of all answers as they come, with the numbers of their answers."""
    began, ended = time.perf_counter(), 0
    try:
        while scheduler.unfinished:
            for token in scheduler.step():
                receiver = receivers[token.answer]
                pieces = receiver.push(token, began)
                if receiver.done and not token.last:
                    scheduler.cancel(token.answer)
                for piece in pieces:
                    yield token.answer, piece
                ended += receiver.done
                if receiver.done and progress is not None:
                    progress(ended, len(receivers))
    finally:
        scheduler.close()


def _alone(pieces: Generator[tuple[int, Any]]) -> Iterator[Any]:
    """The pieces of the only answer."""
    with closing(pieces):
        for _, piece in pieces:
            yield piece


def _are_prompts(prompt: Any) -> bool:
    """Whether it is a list of prompts; a list of integers is one prompt."""
    if isinstance(prompt, str | bytes | Prompt) or not isinstance(prompt, Sequence) or not prompt:
        return False
    first = prompt[0]
    return isinstance(first, str | Prompt | Sequence) or (isinstance(first, np.ndarray) and first.ndim > 0)


def _are_conversations(messages: Any) -> bool:
    """Whether it is a list of lists of messages; a list of messages is one conversation."""
    is_list = isinstance(messages, Sequence) and not isinstance(messages, str | bytes) and len(messages) > 0
    return is_list and isinstance(messages[0], Sequence) and not isinstance(messages[0], str | bytes)


def _each(name: str, given: Any, several: bool) -> Iterator[tuple[str, Any]]:
    """What to call it in an error, and the thing: one, or each of several."""
    if not several:
        yield "", given
        return
    for number, one in enumerate(given):
        yield f"{name}[{number}]", one


@contextmanager
def _named(where: str) -> Iterator[None]:
    """A ValueError inside says which of several prompts it is about."""
    try:
        yield
    except ValueError as error:
        if not where:
            raise
        raise ValueError(f"{where}: {error}") from None
