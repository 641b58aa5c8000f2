"""Why two sides part: the operation where they do is computed once more, as defined and under each known mistake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.compare_layers.case import Case
from tools.compare_layers.comparison import Comparison, distance
from tools.compare_layers.recording import Recording
from tools.compare_layers.traps import traps_of

Array = np.ndarray
# A recomputed tensor is "the same" within rounding (another order of summing), when next to no difference is left.
ROUNDING, LEFT = 2e-5, 0.05


@dataclass(frozen=True)
class Diagnosis:
    """What was found at the first divergence.

    `weights`: tensors there that the two checkpoints hold differently. `definition`: whose values the operation's
    definition gives for Ingot's own inputs, "ours", "theirs" or nobody's (None). `cause`: a mistake that was checked to
    explain the difference, in a sentence.
    """

    weights: tuple[str, ...] = ()
    definition: str | None = None
    cause: str | None = None


def diagnose(comparison: Comparison, ours: Recording, theirs: Recording) -> Diagnosis | None:
    """Why the two sides part at the first divergence; None when they do not."""
    row = comparison.first
    if row is None:
        return None
    weights = _differing_weights(row.name, ours, theirs)
    call = ours.calls.get(row.name)
    if call is None or row.other_shape is not None:
        return Diagnosis(weights)
    limit = min(max(comparison.tolerance, ROUNDING), LEFT * row.relative)
    case = Case(row.name, call, ours)
    mine, other = ours.values[row.name], theirs.values[row.name]
    defined = case.definition()
    definition = "ours" if distance(defined, mine) <= limit else "theirs" if distance(defined, other) <= limit else None
    # the side that does as defined has not made the mistake
    who, side = ("Ingot", mine) if definition == "theirs" else ("the other side", other)
    for trap in traps_of(case):
        value = trap.compute(case)
        if value is not None and value.size == side.size and distance(value, side) <= limit:
            return Diagnosis(weights, definition, f"{who} has what Ingot's inputs give when {trap.when}")
    return Diagnosis(weights, definition)


def _differing_weights(name: str, ours: Recording, theirs: Recording) -> tuple[str, ...]:
    a, b = ours.checkpoint, theirs.checkpoint
    if a is None or b is None or a.path == b.path:
        return ()
    place = name.rpartition(".")[0]
    names = (
        (f"{place}.A_log", f"{place}.dt_bias") if name.endswith(".log_decay") else (f"{name}.weight", f"{name}.bias")
    )
    both = [weight for weight in names if weight in a.table and weight in b.table]
    return tuple(weight for weight in both if not np.array_equal(a.read(weight).float32(), b.read(weight).float32()))
