"""Two recordings side by side, tensor by tensor in execution order; T tokens lead every array."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tools.compare_layers.recording import Recording

Array = np.ndarray


@dataclass(frozen=True)
class Row:
    """One tensor: the largest difference `max_abs`, the other side's largest finite value `scale`, and their ratio.

    `token` is the first with a difference above the tolerance (None: no divergence), `worst` the index of the largest.
    `other_shape` is there when the sides differ in size, and the differences are then infinite.
    """

    name: str
    shape: tuple[int, ...]
    max_abs: float
    scale: float
    relative: float
    token: int | None
    worst: tuple[int, ...] = ()
    other_shape: tuple[int, ...] | None = None

    @property
    def diverged(self) -> bool:
        return self.token is not None


@dataclass(frozen=True)
class Comparison:
    """`rows` in execution order; `unseen` are names that Ingot's side alone has."""

    rows: list[Row]
    tolerance: float
    unseen: list[str] = field(default_factory=list)

    @property
    def first(self) -> Row | None:
        """The first divergence, or None."""
        return next((row for row in self.rows if row.diverged), None)

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps(allow_nan=False)`: an infinite difference is null."""
        rows = [{k: _finite(v) for k, v in asdict(row).items()} | {"diverged": row.diverged} for row in self.rows]
        first = self.first.name if self.first else None
        return {"first": first, "tolerance": self.tolerance, "rows": rows, "unseen": self.unseen}


def compare(ours: Recording, theirs: Recording, tolerance: float) -> Comparison:
    """Every tensor of `ours` against its namesake; a difference above `tolerance` of its scale is a divergence.

    ValueError when the two have no tensor in common.
    """
    names = [name for name in ours.values if name in theirs.values]
    if not names:
        raise ValueError("the two sides have no tensor name in common: they are not the same model")
    rows = [_row(name, ours.values[name], theirs.values[name], tolerance) for name in names]
    return Comparison(rows, tolerance, [name for name in ours.values if name not in theirs.values])


def _row(name: str, a: Array, b: Array, tolerance: float) -> Row:
    if a.size != b.size:
        return Row(name, a.shape, np.inf, np.inf, np.inf, 0, other_shape=b.shape)
    apart_TI, scale = difference(a, b), scale_of(b)
    max_abs = float(apart_TI.max(initial=0))
    above = np.flatnonzero((apart_TI > tolerance * scale).any(axis=1))
    token = int(above[0]) if above.size else None
    worst = tuple(int(i) for i in np.unravel_index(int(apart_TI.argmax()), a.shape))
    return Row(name, a.shape, max_abs, scale, max_abs / scale if scale else max_abs and np.inf, token, worst)


def distance(a: Array, b: Array) -> float:
    """The largest difference of two arrays of one size in units of b's scale."""
    apart, scale = float(difference(a, b).max(initial=0)), scale_of(b)
    return apart / scale if scale else apart and np.inf


def difference(a: Array, b: Array) -> Array:
    """|a - b| as [T, everything else], in fp64; infinite where one side alone is NaN or infinite.

    One framework keeps heads as an axis, the other as rows or columns: in memory that is the same order.
    """
    a, b = (x.reshape(len(a), -1).astype(np.float64) for x in (a, b))
    with np.errstate(invalid="ignore"):
        apart: Array = np.abs(a - b)
    apart[(np.isnan(a) & np.isnan(b)) | (a == b)] = 0
    apart[np.isnan(apart)] = np.inf
    return apart


def scale_of(x: Array) -> float:
    """The largest finite magnitude."""
    return float(np.abs(x[np.isfinite(x)]).max(initial=0))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
