"""Where words meet ids: a loaded model that encodes, scores, continues and chats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ingot.answer import ChatCompletion, Completion, Prompt
from ingot.answering import Job, Progress, answer, are_conversations, are_prompts, each, named
from ingot.encoding import Chat, Encoder, Messages, text_positions
from ingot.engine import Engine, Mark, Request
from ingot.options import DRY_BREAKERS, Options
from ingot.prompt import ChatTemplate, OutputParser, Tokenizer, opens_thinking
from ingot.prompt.media import AllowUrls, Preprocessor
from ingot.prompt.stop import StopText
from ingot.receiving import ChatReceiver, TextReceiver
from ingot.spec import Config
from ingot.spec.presets import preset_thinking

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
        allow_urls: AllowUrls = False,
    ) -> None:
        self.path, self.engine, self.tokenizer, self.template = path, engine, tokenizer, template
        self.preprocessor = preprocessor  # of pictures; None: this model sees none
        self.allow_urls = allow_urls  # of pictures and videos
        self.cache_file = cache_file  # what loading wrote for the next start
        self.checkpoint: Any = None  # what `ingot.load` read it from, and the format in which it holds the matrices
        self.weights = ""
        self.generation_config = dict(generation_config or {})
        self.chat_template_kwargs: dict[str, Any] = {}  # of the template, where a call does not say otherwise
        self.stop_ids = tokenizer.stop_ids(eos_ids) if tokenizer else frozenset(eos_ids)
        self._encoder = Encoder(engine.config, tokenizer, template, preprocessor, allow_urls) if tokenizer else None

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
        data: URL, and videos, {"type": "video", "video": path, bytes or list of frames}. Control tokens written in the
        text are control tokens, as everywhere in this ecosystem.
        """
        if isinstance(text, str):
            return self.encoder.text(text)
        return self.encoder.chat(self._chat(text, tools, thinking, variables), add_generation_prompt)

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
        cache_prompt: bool = True,
        cache_salt: str = "",
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
        A prompt given as ids may lack a tokenizer: the text is then empty. With cache_prompt=False neither the prefix
        cache nor what is remembered of answers is read or written; those of another `cache_salt` are never touched.
        """
        options = Options(
            max_tokens=GENERATE_TOKENS if max_tokens is None else max_tokens,
            n=n,
            stop=stop,
            stop_token_ids=stop_token_ids,
            min_tokens=min_tokens,
            ignore_eos=ignore_eos,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            preset=preset,
            dry_sequence_breakers=dry_sequence_breakers,
            cache_prompt=cache_prompt,
            cache_salt=cache_salt,
            sampling=sampling,
        )
        several = are_prompts(prompt)
        jobs = [self.text_job(one, options, where) for where, one in each("prompts", prompt, several)]
        return answer(self.engine, jobs, options, several, stream, batch_size, progress)

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
        cache_prompt: bool = True,
        cache_salt: str = "",
        stream: bool = False,
        batch_size: int | None = None,
        progress: Progress | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Any:
        """The next turn of a conversation: a ChatCompletion, or with stream=True a Stream of `Delta`s.

        Messages and tools are OpenAI's; a list of conversations gives the list of their turns. `chat_template_kwargs`
        are the template's own variables, and preserve_thinking, which keeps the reasoning of all turns. The other
        parameters are those of `generate`, by the card's values for the thinking mode; max_tokens is 32,768. A `preset`
        that the card has for one mode only decides about thinking where `thinking` is None. `stop` strings are looked
        for in the content, not in reasoning or tool calls.
        """
        options = Options(
            max_tokens=CHAT_TOKENS if max_tokens is None else max_tokens,
            n=n,
            stop=stop,
            stop_token_ids=stop_token_ids,
            min_tokens=min_tokens,
            ignore_eos=ignore_eos,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            preset=preset,
            dry_sequence_breakers=dry_sequence_breakers,
            cache_prompt=cache_prompt,
            cache_salt=cache_salt,
            sampling=sampling,
        )
        several = are_conversations(messages)
        jobs = [
            self.chat_job(one, tools, thinking, options, where, **chat_template_kwargs or {})
            for where, one in each("messages", messages, several)
        ]
        return answer(self.engine, jobs, options, several, stream, batch_size, progress)

    def text_job(self, prompt: str | Prompt | Sequence[int], options: Options, where: str = "") -> Job:
        """What `generate` runs for one prompt, which errors call `where`."""
        with named(where):
            given = self._prompt(prompt)
            thinks = self._thinks_of(given, options.preset)
            return Job(where, self._request(given, options, thinks), self._text)

    def chat_job(
        self,
        messages: Messages,
        tools: Messages | None,
        thinking: bool | None,
        options: Options,
        where: str = "",
        **variables: Any,
    ) -> Job:
        """What `chat` runs for one conversation, which errors call `where`; `variables` go to the template."""
        if options.preset is not None and thinking is None:
            thinking = preset_thinking(self.config.text, options.preset)
        with named(where):
            chat = self._chat(messages, tools, thinking, variables)
            remembers = options.cache_prompt and self.engine.cache.enabled
            prompt = self.encoder.chat(chat, salt=options.cache_salt if remembers else None)
            receiver = partial(self._turn, opens_thinking(prompt.text), list(tools) if tools else None)
            request = self._request(prompt, options, opens_thinking(prompt.text))
            return Job(where, request, receiver, partial(self._next_turn, chat, request))

    def _next_turn(self, chat: Chat, request: Request, completion: ChatCompletion) -> Request | None:
        """What can be read of the prompt after the next one before it is known; None where nothing can."""
        if not request.cache or completion.finish_reason not in ("stop", "tool_calls"):
            return None
        answer = completion.message
        said = [message for message in chat.messages if message.get("role") == "assistant"]
        if said and not any(message.get("reasoning_content") or message.get("reasoning") for message in said):
            answer.pop("reasoning_content", None)  # this client does not send it back
        prompt = self.encoder.next_turn(chat, answer, request.salt)
        if prompt is None or len(prompt.ids) >= self.engine.context:
            return None
        marks = (*_marks(prompt), Mark(len(prompt.ids), "turn"))
        return Request(prompt.ids, prompt.positions, max_tokens=1, marks=marks, salt=request.salt)

    def _text(self, stops: StopText, request: Request, begun: dict[str, Any]) -> TextReceiver:
        return TextReceiver(Completion(**begun), stops, request.stop_ids, self.tokenizer)

    def _turn(
        self, thinks: bool, tools: Messages | None, stops: StopText, request: Request, begun: dict[str, Any]
    ) -> ChatReceiver:
        parser, encoder = OutputParser(thinking=thinks, tools=tools), self.encoder
        remembers = request.cache and self.engine.cache.enabled
        remember = partial(encoder.answers.remember, request.ids, salt=request.salt) if remembers else None
        return ChatReceiver(ChatCompletion(**begun), stops, request.stop_ids, encoder.tokenizer, parser, remember)

    def _request(self, prompt: Prompt, options: Options, thinking: bool) -> Request:
        given = frozenset(map(int, options.stop_token_ids))
        return Request(
            prompt.ids,
            prompt.positions,
            sampling=options.params(self.config.text, self.generation_config, thinking),
            max_tokens=options.max_tokens,
            stop_ids=self.stop_ids | given,
            visuals=prompt.visuals,
            n=options.n,
            min_tokens=options.min_tokens,
            banned_ids=self.stop_ids - given if options.ignore_eos else frozenset(),
            logprobs=options.top_logprobs if options.logprobs else None,
            breaks=options.breaks(self.tokenizer),
            marks=_marks(prompt),
            cache=options.cache_prompt,
            salt=options.cache_salt,
        )

    def _thinks_of(self, prompt: Prompt, preset: str | None) -> bool:
        """The mode whose values a continuation takes: without thinking, unless the preset or the prompt is for it."""
        if preset is None:
            return False
        mode = preset_thinking(self.config.text, preset)
        return opens_thinking(prompt.text) if mode is None else mode

    def _prompt(self, prompt: str | Sequence[int] | Prompt) -> Prompt:
        if isinstance(prompt, Prompt):
            return prompt
        if isinstance(prompt, str):
            return self.encode(prompt)
        if prompt is None or isinstance(prompt, bytes | Mapping):
            raise ValueError(f"prompt is {type(prompt).__name__}; a text, token ids or a Prompt is needed")
        ids = np.asarray(prompt)
        return Prompt(ids, text_positions(ids.size))

    @property
    def encoder(self) -> Encoder:
        """What makes prompts of texts and messages; ValueError for a model without a tokenizer."""
        if self._encoder is None:
            raise ValueError(
                f"{self.path}: holds no tokenizer.json or vocab.json, so this model takes token ids, not text"
            )
        return self._encoder

    def _chat(
        self, messages: Messages, tools: Messages | None, thinking: bool | None, variables: Mapping[str, Any]
    ) -> Chat:
        return Chat(messages, tools, thinking, {**self.chat_template_kwargs, **variables})


def _marks(prompt: Prompt) -> tuple[Mark, ...]:
    return tuple(Mark(position, kind) for position, kind in prompt.marks)
