"""Pictures to features, each picture once: the vision tower, loaded when the first one comes, and what it saw last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ingot.engine.pausing import Pausing
from ingot.model import Frames
from ingot.spec import Config

KEPT_BYTES = 256 << 20  # of features: some forty screenshots of the 0.8B model (taste)
PASS_PATCHES = 8192  # of small frames that go through the tower together (taste)


@dataclass(frozen=True)
class Visual:
    """A picture or video of a prompt. `rows` are the tokens its features take, `grid` its temporal patches, rows and
    columns of patches, `patches(t, begin, end)` the float32 rows begin .. end (without them: all) of temporal patch t,
    `digest` its content."""

    rows: np.ndarray
    grid: tuple[int, int, int]
    patches: Callable[..., np.ndarray]
    digest: str


def _on() -> None:
    """No pause."""


class Eyes:
    """`load` gives the tower's node, and calls what it is given as it goes; None: the model has none."""

    def __init__(self, ops: Any, config: Config, load: Callable[[Callable[[], None]], Any] | None) -> None:
        self.ops, self.config, self._load = ops, config, load
        self._tower: Any = None
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._alive: WeakValueDictionary[str, np.ndarray] = WeakValueDictionary()  # those that somebody holds, too
        self._bytes = 0

    @property
    def tower(self) -> Any:
        """The vision tower's node; None until it has seen a picture."""
        return self._tower

    def features(self, visual: Visual, pause: Callable[[], None] = _on) -> np.ndarray:
        """float32 [M, D]: a function of the picture alone, whoever is beside it. `pause` is called between the tower's
        operations: what it raises ends the work, and nothing of it is kept. Whoever holds what is returned sees the
        picture again without work."""
        found = self._alive.get(visual.digest)
        if found is None:
            found = self._alive[visual.digest] = self._encode(visual, pause)
        if visual.digest not in self._kept:
            self._kept[visual.digest] = found
            self._bytes += found.nbytes
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(visual.digest)
        return found

    def of_parts(self, parts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray] | None:
        """`of_slice` of a pass over the next `ids` of several sequences, each with its `visuals`."""
        rows, features, first = [], [], 0
        for part in parts:
            begin = part.sequence.length
            found = self.of_slice(part.visuals, begin, begin + len(part.ids))
            if found is not None:
                rows.append(found[0] + first)
                features.append(found[1])
            first += len(part.ids)
        return (np.concatenate(rows), np.concatenate(features)) if rows else None

    def of_slice(self, visuals: Sequence[Visual], begin: int, end: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Of the tokens begin .. end those that stand for pictures, counted from begin, and their features."""
        rows, parts = [], []
        for visual in visuals:
            inside = (visual.rows >= begin) & (visual.rows < end)
            if inside.any():
                rows.append(visual.rows[inside] - begin)
                parts.append(self.features(visual)[inside])
        return (np.concatenate(rows), np.concatenate(parts)) if rows else None

    def _encode(self, visual: Visual, pause: Callable[[], None]) -> np.ndarray:
        vision = self.config.vision
        if self._load is None or vision is None:
            raise ValueError("this model sees no pictures: it was made without a vision tower")
        if self._tower is None:
            self._tower = self._load(pause)
        ops = Pausing(self.ops, pause)
        frames, *grid = visual.grid
        together = max(1, PASS_PATCHES // (grid[0] * grid[1]))
        parts = []
        for first in range(0, frames, together):
            some = range(first, min(first + together, frames))
            where = Frames.of([(grid[0], grid[1])] * len(some), vision)
            parts.append(ops.host(self._tower(ops, _Patches(visual, some), where)))
        return np.concatenate(parts)


class _Patches:
    """The patches of some frames, made as they are sliced: those of 16 megapixels would take 400 MB."""

    def __init__(self, visual: Visual, frames: range) -> None:
        self._visual, self._frames, self._each = visual, frames, visual.grid[1] * visual.grid[2]
        self.shape = (len(frames) * self._each,)

    def __getitem__(self, rows: slice) -> np.ndarray:
        begin, end, _ = rows.indices(self.shape[0])
        inside = range(begin // self._each, -(-end // self._each))
        edges = [(max(begin - i * self._each, 0), min(end - i * self._each, self._each)) for i in inside]
        parts = [self._visual.patches(self._frames[i], *edge) for i, edge in zip(inside, edges, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
