"""Unquantised safetensors that MLX tools wrote, as those of the Hugging Face checkpoint.

They rename (`language_model.model.*`, `vision_tower.*`), store convolutions with their channels last, and add the 1 of
`1 + w` to the decoder's norms, in bf16: taking it away gives the very weights that MLX computes with, which are the
original's to 8 bits. Converters have been known to add it twice, or not at all, so the norms' mean is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ingot.spec import Config, Weight
from ingot.store.mapped import TensorInfo
from ingot.store.safetensors import SafetensorsFile
from ingot.store.tensor import FLOATING, Tensor

VERSION = 1  # of what is made of a file's values; a change makes packed weights in the cache stale
TEXT, VISION = "language_model.", "vision_tower."
# Norms of a model are spread about 1, with the 1 in them: twice is about 2, never about 0 (mlx-lm's issues tell both).
_LEAST, _MOST = 0.5, 1.5


def is_mlx(infos: Mapping[str, TensorInfo]) -> bool:
    """Whether the names are those of MLX tools."""
    return any(name.startswith((TEXT, VISION)) for name in infos)


def mlx_name(name: str, prefix: str) -> str:
    """What MLX tools call the tensor that Hugging Face calls `name`; `prefix` is the decoder's."""
    if name.startswith("model.visual."):
        return VISION + name.removeprefix("model.visual.")
    if name.startswith(prefix):
        return f"{TEXT}model.{name.removeprefix(prefix)}"
    return TEXT + name


@dataclass(frozen=True, eq=False)
class MLXWeights:
    """One file under the interface of `SafetensorsFile`, with the shapes and values of Hugging Face's weights."""

    file: SafetensorsFile
    placed: Mapping[str, Weight]

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def identity(self) -> tuple[object, ...]:
        return (*self.file.identity, VERSION)

    def info(self, name: str) -> TensorInfo:
        """dtype, the shape in a Hugging Face checkpoint, and place."""
        info, axis = self.file.info(name), self._channels(name)
        shape = info.shape
        if axis is not None:
            shape = (*shape[:axis], shape[-1], *shape[axis:-1])
        return TensorInfo(info.dtype, shape, info.begin, info.end)

    def tensor(self, name: str) -> Tensor:
        """The weight: a view of the file, or a new array where it was changed."""
        tensor, axis, weight = self.file.tensor(name), self._channels(name), self.placed.get(name)
        if axis is not None:
            return Tensor(np.ascontiguousarray(np.moveaxis(tensor.array, -1, axis)), tensor.dtype)
        if weight is not None and weight.role == "norm1p":
            return Tensor(tensor.float32() - 1, "F32")
        return tensor

    def release(self, name: str) -> None:
        """Give the tensor's pages back to the system."""
        self.file.release(name)

    def _channels(self, name: str) -> int | None:
        """Where Hugging Face has the channels that are last here; None for what is not a convolution."""
        weight = self.placed.get(name)
        rank = 0 if weight is None else len(weight.shape)
        return 1 if rank in (3, 5) and len(self.file.info(name).shape) == rank else None


def open_mlx(
    files: Mapping[str, SafetensorsFile], config: Config, table: Mapping[str, Weight]
) -> tuple[dict[str, MLXWeights], dict[str, str]]:
    """The files by their tensors' names, and where each weight lies; ValueError where it is not sure what was done to
    the norms."""
    stored = {name: mlx_name(name, config.prefix) for name in table}
    placed = {stored[name]: weight for name, weight in table.items()}
    views = {file: MLXWeights(file, placed) for file in files.values()}
    found = {name: views[file] for name, file in files.items()}
    _check_norms(found, placed)
    return found, stored


def _check_norms(files: Mapping[str, MLXWeights], placed: Mapping[str, Weight]) -> None:
    norms = [
        name
        for name, row in placed.items()
        if name in files and row.role == "norm1p" and files[name].info(name).dtype in FLOATING
    ]
    mean = np.mean([files[name].file.tensor(name).float32().mean() for name in norms]) if norms else 1.0
    if not _LEAST < mean < _MOST:
        raise ValueError(
            f"{files[norms[0]].path}: is named as MLX does, whose norms contain the 1 of 1 + w and average about 1, "
            f"but these average {mean:.2f}\n"
            "hint: get the original Hugging Face checkpoint, or convert it again with a newer MLX"
        )
