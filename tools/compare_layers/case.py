"""One tensor of a recording, computed once more by the operation's definition; T tokens lead every array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.ops import Segments, reference
from ingot.spec import TextConfig
from tools.compare_layers.recording import Call, Recording

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
            return reference.linears(inputs[0], lambda x_TI: x_TI @ self.matrix().T)[0]
        if op == "rotary":
            fixed = (np.tile(np.arange(len(self.y)), (3, 1)), *fixed[1:])
        if op in STATEFUL:
            seg = Segments.of_lengths(lengths or [len(self.y)])
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
        return checkpoint.read(stored).float32()

    def sibling(self, word: str) -> Array | None:
        """Another tensor of the same module, as Ingot's side had it."""
        return self.run.values.get(f"{self.name.rpartition('.')[0]}.{word}")
