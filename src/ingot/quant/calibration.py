"""Calibrated q4: the model reads prompts in its stored format, layer by layer, and each matrix is rounded for the
inputs that it saw."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.model.attention import rope_frequencies
from ingot.model.composite import Unfused, norm
from ingot.model.decoder import decoder_node
from ingot.ops import Segments
from ingot.quant.gptq import round_q4
from ingot.spec import Weight


@dataclass(frozen=True)
class Calibration:
    """Token sequences that stand for what the model will read; `digest` names them in the cache."""

    sequences: Sequence[np.ndarray]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that depend on every token."""
        digest = hashlib.sha256()
        for ids in self.sequences:
            digest.update(np.asarray([len(ids), *ids], "<i4").tobytes())
        return digest.hexdigest()[:16]


class CalibratedMatrices:
    """Packed q4 panels of the weights of one model, in the order in which `model.build` asks for them.

    `root` is the model in its stored format. One layer is recorded at a time: 4 bytes for every pair of its inputs.
    """

    def __init__(self, ops: Any, root: Any, calibration: Calibration) -> None:
        self._ops, self._root, self._decoder = ops, root, decoder_node(root)
        lengths = [len(ids) for ids in calibration.sequences]
        self._seg = ops.segments(Segments.of_lengths(lengths))
        self._rotary = ops.rotary(self._seg.position, *rope_frequencies(root.config.text))
        self._embedded = ops.embed(self._decoder.embed_tokens, np.concatenate(calibration.sequences).astype(np.int32))
        self._steps: Iterator[dict[int, np.ndarray]] = self._record()
        self._moments: dict[int, np.ndarray] = {}

    def data(self, weight: Weight, float32: Callable[[], np.ndarray]) -> np.ndarray:
        """The panels of one matrix, whose values `float32` gives."""
        leaf = self._leaf(weight.name)
        if leaf is self._decoder.embed_tokens or leaf is getattr(self._root, "lm_head", None):
            return round_q4(float32(), self._head_moments())
        while id(leaf) not in self._moments:
            self._moments = next(self._steps)
        return round_q4(float32(), self._moments[id(leaf)])

    def _leaf(self, name: str) -> Any:
        place = self._root
        for part in name.removesuffix(".weight").split("."):
            place = place[int(part)] if part.isdigit() else getattr(place, part)
        return place

    def _record(self) -> Iterator[dict[int, np.ndarray]]:
        x_TD = self._embedded
        for layer in self._decoder.layers:
            recorder = _Recorder(self._ops)
            x_TD = layer(recorder, x_TD, self._seg, self._rotary, None)
            yield recorder.moments

    def _head_moments(self) -> np.ndarray:
        x_TD = self._embedded
        for layer in self._decoder.layers:
            x_TD = layer(self._ops, x_TD, self._seg, self._rotary, None)
        x_TD = norm(self._ops, self._decoder.norm, x_TD)
        return np.asarray(x_TD.T @ x_TD)


class _Recorder(Unfused):
    """An op set that adds up the second moments of what each leaf is applied to."""

    def __init__(self, ops: Any) -> None:
        super().__init__(ops)
        self.moments: dict[int, np.ndarray] = {}

    def linears(self, x_TI: np.ndarray, *leaves: Any) -> Any:
        moments = x_TI.T @ x_TI
        self.moments.update({id(leaf): moments for leaf in leaves})
        return self._ops.linears(x_TI, *leaves)
