"""A model that recites: behind the real tokenizer, template, engine and scheduler its logits make the sampler choose
the ids that a script gives. What parsers, stop strings, streams, cancelling and scheduling do is then tested, not luck.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ingot
from ingot.language_model import LanguageModel
from tests.api.small_model import write_small_model

# What to say after a prompt: a text, or ids and rows of logits. The end of turn comes by itself after a text.
Says = Callable[[str], "str | Sequence[Any]"]


class ScriptedRoot:
    """In place of the decoder. `passes` has the tokens of each pass by slot; with a `gate`, each pass waits for it;
    `fails` is raised by the next pass."""

    def __init__(self, model: LanguageModel, says: Says) -> None:
        self._tokenizer, self._rows, self._says = model.tokenizer, model.config.text.vocab_size, says
        self._read: dict[int, list[int]] = {}  # slot -> the ids it has taken
        self._left: dict[int, list[Any]] = {}  # slot -> what it is still to say
        self._said: dict[int, int | None] = {}  # slot -> the last of it
        self.passes: list[dict[int, int]] = []
        self.gate: threading.Semaphore | None = None
        self.fails: Exception | None = None

    def __call__(self, ops: Any, ids: Any, seg: Any, pools: Any, rows: Any = None, features: Any = None) -> Any:
        if self.gate is not None:
            self.gate.acquire()
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        slots = [int(slot) for slot in seg.slot]
        for slot, begin, end, start in zip(slots, seg.offset[:-1], seg.offset[1:], seg.start, strict=True):
            if start == 0:
                self._read[slot] = []
            read = ids[begin:end].tolist()
            if start == 0 or read != [self._said.get(slot)]:  # a prompt
                self._left.pop(slot, None)
            self._read[slot] += read
        self.passes.append(dict(zip(slots, np.diff(seg.offset).tolist(), strict=True)))
        which = np.searchsorted(seg.offset, rows, side="right") - 1
        return (
            np.stack([self._logits(slots[i]) for i in which]) if len(which) else np.zeros((0, self._rows), np.float32)
        )

    def copy(self, source: int, target: int) -> None:
        """What a slot remembers goes to another."""
        self._read[target] = list(self._read[source])
        for slots in (self._left, self._said):
            slots.pop(target, None)
        if source in self._left:
            self._left[target], self._said[target] = list(self._left[source]), self._said.get(source)

    def _logits(self, slot: int) -> np.ndarray:
        if slot not in self._left:
            said = self._says(self._tokenizer.decode(self._read[slot]))
            end = self._tokenizer.token_id("<|im_end|>")
            self._left[slot] = [*self._tokenizer.encode(said), end] if isinstance(said, str) else list(said)
        item = self._left[slot].pop(0)
        if isinstance(item, np.ndarray):
            return item
        self._said[slot] = item
        row = np.full(self._rows, -30, np.float32)
        row[item] = 30
        return row


def scripted_model(path: Path, says: Says, **changes: Any) -> LanguageModel:
    """A model at `path` that says what `says` gives for a prompt; its decoder is `engine.root`."""
    settings = {"max_position_embeddings": 2048, **changes}
    model = ingot.load(write_small_model(path, **settings), backend="reference", kv="f32")
    return script(model, says)


def script(model: LanguageModel, says: Says) -> LanguageModel:
    """The same model, with a script in place of its decoder."""
    root, states = ScriptedRoot(model, says), model.engine.states
    copy = states.copy_slot

    def copied(source: int, target: int) -> None:
        copy(source, target)
        root.copy(source, target)

    model.engine.root, states.copy_slot = root, copied  # type: ignore[method-assign]
    return model
