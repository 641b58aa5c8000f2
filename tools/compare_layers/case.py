"""One tensor of a recording, computed once more by the operation's definition, or with a mistake; T tokens lead every
array."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ingot.ops import Segments, reference
from ingot.spec import TextConfig, VisionConfig
from tools.compare_layers.recording import VISUAL, Call, Recording

Array = np.ndarray
STATEFUL = ("causal_conv1d", "gated_delta_rule", "attention")


@dataclass(frozen=True)
class Case:
    """One tensor to compute again: its name, the operation with its inputs, and the run it comes from."""

    name: str
    call: Call
    run: Recording

    @property
    def text(self) -> TextConfig:
        assert self.run.checkpoint is not None
        return self.run.checkpoint.config.text

    @property
    def vision(self) -> VisionConfig:
        assert self.run.checkpoint is not None
        assert self.run.checkpoint.config.vision is not None
        return self.run.checkpoint.config.vision

    @property
    def visual(self) -> bool:
        """A tensor of the vision tower."""
        return self.name.startswith(VISUAL)

    @property
    def y(self) -> Array:
        """What Ingot's side had."""
        return self.run.values[self.name]

    def definition(
        self, *changed: Array, fixed: tuple[Any, ...] | None = None, lengths: list[int] | None = None
    ) -> Array:
        """The tensor by `ops.reference`, in one pass.

        With other leading inputs, other fixed arguments, or cut into runs of `lengths` tokens that know nothing of one
        another.
        """
        op, inputs = self.call.op, (*changed, *self.call.inputs[len(changed) :])
        fixed = self.call.fixed if fixed is None else fixed
        if op == "linears":
            return reference.linears(inputs[0], lambda x_TI: x_TI @ self.matrix().T + self.bias())[0]
        if op in STATEFUL:
            seg = Segments.of_lengths(lengths or [len(self.y)], causal=not self.visual)
            fixed = (fixed[0], seg) if op == "causal_conv1d" else (seg,)
        y = getattr(reference, op)(*inputs, *fixed)
        result: Array = y[self.call.result] if isinstance(y, tuple) else y
        return result

    def matrix(self, name: str | None = None) -> Array:
        """The matrix [O, I] of this tensor, or the named one, from Ingot's checkpoint."""
        checkpoint = self.run.checkpoint
        assert checkpoint is not None
        stored = f"{name or self.name}.weight"
        if stored == "lm_head.weight" and checkpoint.config.tie_word_embeddings:
            stored = f"{checkpoint.config.prefix}embed_tokens.weight"
        weight = checkpoint.read(stored).float32()
        return weight.reshape(len(weight), -1)

    def bias(self) -> Array | float:
        """The bias of this matrix; 0 where it has none."""
        checkpoint = self.run.checkpoint
        assert checkpoint is not None
        stored = f"{self.name}.bias"
        return checkpoint.read(stored).float32() if stored in checkpoint.table else 0.0

    def sibling(self, word: str) -> Array | None:
        """Another tensor of the same module, as Ingot's side had it."""
        return self.run.values.get(f"{self.name.rpartition('.')[0]}.{word}")


class Trap(NamedTuple):
    """A mistake: "... gives this when {when}", and the tensor it would give (None: it does not apply)."""

    when: str
    compute: Callable[[Case], Array | None]


def regroup(x: Array, *shape: int) -> Array:
    """Columns of x_T(abd) read as [a, b, d] and put in the order [b, a, d]."""
    return x.reshape(len(x), *shape).swapaxes(1, 2).reshape(len(x), -1)
