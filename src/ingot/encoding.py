"""Texts and conversations to Prompts: ids, positions, pictures, and where others may go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ingot.answer import Prompt
from ingot.engine import Visual
from ingot.prompt import AnswerMemory, ChatTemplate, Medium, Tokenizer, TurnEncoder, TurnTokens, render_with_media
from ingot.prompt.breakpoints import probes
from ingot.prompt.marks import marks, tokens_in
from ingot.prompt.media import TEXT_ONLY, AllowUrls, Picture, Preprocessor, expand, open_image, open_video
from ingot.spec import Config

Messages = Sequence[Mapping[str, Any]]
_UNKNOWN = "5e29b1c7 is said"  # in the place of what nobody has said yet; a text that has it is read ahead to there


@dataclass(frozen=True)
class Chat:
    """A conversation, and what its rendering depends on; thinking None is the template's own default."""

    messages: Messages
    tools: Messages | None = None
    thinking: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def rendered(self, template: ChatTemplate | None, add_generation_prompt: bool = True) -> tuple[str, list[Medium]]:
        """The prompt's text, and its pictures."""
        variables, thinking = self.variables, self.thinking
        return render_with_media(self.messages, self.tools, template, add_generation_prompt, thinking, **variables)


class Encoder:
    """Of one model. `answers` remembers how its answers were cut into tokens."""

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        preprocessor: Preprocessor | None,
        allow_urls: AllowUrls,
    ) -> None:
        self.config, self.tokenizer, self.template = config, tokenizer, template
        self.preprocessor, self.allow_urls = preprocessor, allow_urls
        self.answers, self.turn_encoder = AnswerMemory(tokenizer), TurnEncoder(tokenizer)
        self._turns = TurnTokens.of(tokenizer)

    def text(self, text: str) -> Prompt:
        """Of a text as it is."""
        ids = self.tokenizer.encode(text)
        return Prompt(ids, text_positions(len(ids)), text)

    def chat(self, chat: Chat, add_generation_prompt: bool = True, salt: str | None = None) -> Prompt:
        """Of a conversation, with its marks. With a salt the answers that were remembered under it are put back."""
        text, media = chat.rendered(self.template, add_generation_prompt)
        ids = self._ids(text, salt)
        breaks = self._breaks(chat, text, ids)
        if not media:
            return Prompt(ids, text_positions(len(ids)), text, marks=self._marks(ids, (), breaks))
        pictures = [self._picture(medium) for medium in media]
        expanded = expand(ids, pictures, self.config, self.tokenizer.encode)
        visuals = tuple(
            Visual(rows, picture.grid, picture.patches, picture.digest)
            for rows, picture in zip(expanded.rows, pictures, strict=True)
        )
        found = self._marks(expanded.ids, expanded.rows, [expanded.place(at) for at in breaks])
        return Prompt(expanded.ids, expanded.positions, text, visuals, found)

    def next_turn(self, chat: Chat, answer: Mapping[str, Any], salt: str = "") -> Prompt | None:
        """What the prompt of the turn after `answer` begins with, whatever is said then; None where that is not known:
        of conversations with pictures."""
        role = "tool" if answer.get("tool_calls") else "user"
        after = replace(chat, messages=[*chat.messages, answer, {"role": role, "content": _UNKNOWN}])
        text, media = after.rendered(self.template)
        known, found, _ = text.partition(_UNKNOWN)
        if media or not found:
            return None
        ids = self._ids(known, salt)
        return Prompt(ids, text_positions(len(ids)), known, marks=self._marks(ids, (), ())) if len(ids) else None

    def _ids(self, text: str, salt: str | None) -> np.ndarray:
        if salt is None:
            return np.array(self.tokenizer.encode(text), np.int32)
        return self.answers.splice(self.turn_encoder.encode(text, salt), salt)

    def _breaks(self, chat: Chat, text: str, ids: np.ndarray) -> list[int]:
        """The tokens before each of the client's breakpoints."""
        shared = []
        for messages, tools in probes(chat.messages, chat.tools):
            with suppress(ValueError):  # a template that refuses the probe: the request itself is fine without a mark
                shared.append(_shared(text, replace(chat, messages=messages, tools=tools).rendered(self.template)[0]))
        return tokens_in(shared, ids, self.tokenizer) if shared else []

    def _marks(self, ids: np.ndarray, rows: Sequence[np.ndarray], breaks: Sequence[int]) -> tuple[tuple[int, str], ...]:
        return () if self._turns is None else marks(ids, self._turns, rows, breaks)

    def _picture(self, medium: Medium) -> Picture:
        if self.preprocessor is None:
            raise ValueError(f"{medium.where}: {TEXT_ONLY}")
        try:
            if medium.kind == "image":
                return self.preprocessor.image(open_image(medium.source, self.allow_urls), medium.max_pixels)
            bounds = medium.fps, medium.max_pixels, medium.max_frames
            return open_video(medium.source, self.preprocessor, *bounds, self.allow_urls)
        except ValueError as error:
            raise ValueError(f"{medium.where}: {error}") from None


def text_positions(tokens: int) -> np.ndarray:
    """The positions of a text, int32 [3,T]."""
    return np.tile(np.arange(tokens, dtype=np.int32), (3, 1))


def _shared(text: str, other: str) -> str:
    """The beginning that two texts share."""
    known, most = 0, min(len(text), len(other))
    while known < most:
        middle = (known + most + 1) // 2
        if other.startswith(text[known:middle], known):
            known = middle
        else:
            most = middle - 1
    return text[:known]
