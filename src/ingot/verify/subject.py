"""What is verified: a checkpoint, its tokenizer and template, and one running model at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import ingot
from ingot.answer import Prompt
from ingot.engine import STEP_TOKENS
from ingot.language_model import LanguageModel
from ingot.memory import available
from ingot.prompt import ChatTemplate, Tokenizer
from ingot.spec.cost import memory
from ingot.store import Checkpoint, open_checkpoint
from ingot.verify.check import SkippedError
from ingot.verify.samples import CONVERSATION, IDS, PICTURES, TEXTS, TOKENS, about, fixed_ids, picture

T = TypeVar("T")
CONTEXT = 512  # tokens for which memory is planned: more than any fixed prompt
LOGITS = 6  # of the longest prompt that are in memory at once: compared, kept, copied


class Subject:
    """The checkpoint in `path`. What cannot be had fails the first check that asks for it, and is skipped by the
    others."""

    def __init__(self, path: Path, quick: bool = False, told: Callable[[int, int], None] | None = None) -> None:
        self.path, self.quick, self.told = path, quick, told
        self.rows: dict[str, np.ndarray] = {}  # the last logits of each prompt, as stored: what formats diverge from
        self._broken: set[str] = set()
        self._model: LanguageModel | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return self._have("the weights", lambda: open_checkpoint(self.path))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        if not any((self.path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise SkippedError("there is no tokenizer in this directory")
        return self._have("the tokenizer", lambda: Tokenizer.from_directory(self.path))

    @cached_property
    def template(self) -> ChatTemplate:
        return self._have("the template", lambda: ChatTemplate.from_directory(self.path))

    def _have(self, what: str, make: Callable[[], T]) -> T:
        if what in self._broken:
            raise SkippedError(f"needs {what}")
        self._broken.add(what)  # until it is here
        made = make()
        self._broken.discard(what)
        return made

    def model(self, fmt: str | None = None) -> LanguageModel:
        """The running model with its weights in `fmt` (None: as stored), keys and values in f32; the one before is
        given up."""
        held = self._model
        if held is not None and fmt in (None, held.weights):
            return held
        wanted = fmt or {"BF16": "bf16"}.get(self.checkpoint.dtype, "f32")
        self.give_up()
        self._model = self._have(f"the model as {wanted}", lambda: self._load(wanted))
        return self._model

    def _load(self, fmt: str) -> LanguageModel:
        self._check_memory(fmt)
        computed: dict[str, Any] = {"cache": False, "prefix_cache": False, "speculate": "off"}
        return ingot.load(self.path, backend="native", weights=fmt, kv="f32", progress=self.told, **computed)

    def give_up(self) -> None:
        """Let the model's memory go."""
        self._model = None
        gc.collect()

    def _check_memory(self, fmt: str) -> None:
        from importlib.util import find_spec

        if find_spec("ingot._native") is None:
            raise SkippedError("the native kernels are not built here")
        components = ("text", "vision") if self.checkpoint.has_vision else ("text",)
        logits = 4 * IDS * self.checkpoint.config.text.vocab_size
        needed = memory(self.checkpoint.config, fmt, STEP_TOKENS, components).total(CONTEXT) + LOGITS * logits
        free = available()
        if free is not None and needed > free:
            raise SkippedError(f"as {fmt} it needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free")

    def prompts(self, model: LanguageModel) -> dict[str, Prompt]:
        """The fixed prompts of text."""
        made = {"ids": fixed_ids(model.engine.vocabulary)}
        if model.tokenizer is not None:
            made |= {name: np.asarray(model.encode(text).ids[:TOKENS], np.int32) for name, text in TEXTS.items()}
            with suppress(ValueError):  # a template that fails has a check of its own
                made["conversation"] = np.asarray(model.encode(CONVERSATION, thinking=False).ids, np.int32)
        return {name: Prompt(ids, np.tile(np.arange(len(ids), dtype=np.int32), (3, 1))) for name, ids in made.items()}

    def seen(self, model: LanguageModel) -> dict[str, Prompt]:
        """The fixed prompts with pictures; none where the model has no eyes or no tokenizer."""
        if model.preprocessor is None or model.tokenizer is None:
            return {}
        return {name: model.encode(about(picture(*size)), thinking=False) for name, size in PICTURES.items()}

    def vocabulary(self, logits: Any) -> np.ndarray:
        """The columns of logits that stand for tokens."""
        assert self._model is not None
        used: np.ndarray = logits[:, : self._model.engine.vocabulary]
        return used
