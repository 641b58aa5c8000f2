"""Checkpoints with random weights: for tests and for measurements of speed, never of quality."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ingot.spec import Weight, parse_config, weights_table
from ingot.spec.formats import MATRIX_ROLES
from ingot.store.save import SafetensorsWriter
from ingot.store.tensor import Tensor, tensor_of

_DTYPES = {"bf16": "BF16", "f32": "F32"}


def write_random_checkpoint(
    path: str | os.PathLike[str],
    config_dict: Mapping[str, Any],
    dtype: str = "bf16",
    seed: int = 0,
    mtp: bool = True,
    vision: bool = False,
) -> Path:
    """Write config.json and model.safetensors for `config_dict` into the directory `path`, and return it.

    Every tensor depends on `seed` and its own name alone, so leaving out `mtp` or `vision` changes no other. With
    dtype "bf16" the weights that official checkpoints keep in float32 (A_log, the gated norm) stay F32; "f32" makes
    all F32. One tensor is in memory at a time.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; {' and '.join(map(repr, _DTYPES))} exist")
    leave_out = {name for name, wanted in (("mtp", mtp), ("vision", vision)) if not wanted}
    rows = {n: w for n, w in weights_table(parse_config(config_dict)).items() if w.component not in leave_out}
    stored = {name: "F32" if row.dtype == "fp32" else _DTYPES[dtype] for name, row in rows.items()}
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    layout = {name: (stored[name], row.shape) for name, row in rows.items()}
    with SafetensorsWriter(directory / "model.safetensors", layout, {"format": "pt"}) as file:
        for name, row in rows.items():
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            file.write(name, random_weight(row, stored[name], rng))
    (directory / "config.json").write_text(json.dumps(config_dict, indent=2) + "\n", encoding="utf-8")
    return directory


def random_weight(row: Weight, dtype: str, rng: np.random.Generator) -> Tensor:
    """A tensor for one row of the table, drawn by its role so that activations and logits keep a scale near 1."""
    if row.role in MATRIX_ROLES:
        fan_in = row.shape[-1] if row.role == "embedding" else math.prod(row.shape[1:])
        return _normal(row.shape, fan_in**-0.5, dtype, rng)
    return tensor_of(_SMALL[row.role](row, rng).astype(np.float32), dtype)


def _normal(shape: tuple[int, ...], std: float, dtype: str, rng: np.random.Generator) -> Tensor:
    if dtype != "BF16":
        return tensor_of(rng.standard_normal(shape, np.float32) * np.float32(std), dtype)
    # Draws from 2**16 normal values, not from the distribution: six times faster, and bf16 has few more of them.
    values = tensor_of(rng.standard_normal(1 << 16, np.float32) * np.float32(std), dtype).array
    choice = np.frombuffer(rng.bytes(2 * math.prod(shape)), np.uint16)
    return Tensor(values[choice].reshape(shape), dtype)


def _decay(row: Weight, rng: np.random.Generator) -> np.ndarray:
    """A_log = log U(1, 16); dt_bias = inverse softplus of a step drawn log-uniformly from 0.001 to 0.1 (Mamba's)."""
    if row.name.endswith("A_log"):
        return np.log(rng.uniform(1, 16, row.shape))
    step = np.exp(rng.uniform(math.log(1e-3), math.log(0.1), row.shape))
    return step + np.log(-np.expm1(-step))


def _conv(row: Weight, rng: np.random.Generator) -> np.ndarray:
    bound = row.shape[-1] ** -0.5
    return rng.uniform(-bound, bound, row.shape)


_SMALL: dict[str, Callable[[Weight, np.random.Generator], np.ndarray]] = {
    "norm1p": lambda row, rng: rng.normal(0, 0.05, row.shape),
    "norm": lambda row, rng: rng.normal(1, 0.05, row.shape),
    "bias": lambda row, rng: rng.normal(0, 0.02, row.shape),
    "conv": _conv,
    "decay": _decay,
}
