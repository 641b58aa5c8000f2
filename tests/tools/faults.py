"""Faults to plant: tensors of a checkpoint changed, and op sets that make a known mistake."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ingot.ops import reference
from ingot.spec import Config
from ingot.store import open_checkpoint, save_safetensors, tensor_of

Change = Callable[[np.ndarray], np.ndarray]


def changed_checkpoint(source: Path, target: Path, changes: dict[str, Change]) -> Path:
    """A copy of the checkpoint `source` in which some tensors are changed; KeyError when one is not there."""
    target.mkdir()
    shutil.copy(source / "config.json", target)
    checkpoint, left = open_checkpoint(source), dict(changes)
    tensors = []
    for name in checkpoint.table:
        change = left.pop(name, np.copy)
        tensors.append((name, tensor_of(change(checkpoint.read(name).float32()), "F32")))
    if left:
        raise KeyError(next(iter(left)))
    save_safetensors(target / "model.safetensors", tensors)
    return target


def value_heads_tiled(config: Config, name: str) -> Change:
    """The weight `name` of a delta mixer with its value heads g * r + j at j * G + g."""
    text = config.text
    groups, value = text.linear_num_key_heads, text.linear_value_head_dim
    keys = 2 * groups * text.linear_key_head_dim
    before = keys if "qkv" in name or "conv1d" in name else 0
    dim = value if before or "in_proj_z" in name or "out_proj" in name else 1

    def tiled(w: np.ndarray) -> np.ndarray:
        heads = w[before:].reshape(groups, -1, dim, *w.shape[1:]).swapaxes(0, 1)
        return np.concatenate([w[:before], heads.reshape(-1, *w.shape[1:])])

    return (lambda w: tiled(w.T).T) if "out_proj" in name else tiled


def q_then_gate(config: Config) -> Change:
    """All query rows, then all gate rows."""
    heads, dim = config.text.num_attention_heads, config.text.head_dim
    return lambda w: w.reshape(heads, 2, dim, -1).swapaxes(0, 1).reshape(w.shape)


def gate_before_q(config: Config) -> Change:
    heads, dim = config.text.num_attention_heads, config.text.head_dim
    return lambda w: w.reshape(heads, 2, dim, -1)[:, ::-1].reshape(w.shape)


def rotary_pairs(config: Config) -> Change:
    """The rows of k_proj for a rotation of dims (2i, 2i + 1)."""
    dim, pairs = config.text.head_dim, config.text.rotary_dim // 2
    order = np.arange(2 * pairs).reshape(2, pairs).T.ravel()

    def change(w: np.ndarray) -> np.ndarray:
        heads = w.reshape(-1, dim, w.shape[1])
        return np.concatenate([heads[:, order], heads[:, 2 * pairs :]], axis=1).reshape(w.shape)

    return change


def op_set_with(inner: Any = reference, **ops: Callable[..., Any]) -> Any:
    """An op set that has some operations of its own."""
    names = {name: getattr(inner, name) for name in dir(inner) if not name.startswith("_")}
    return SimpleNamespace(**names | ops)


def rope_of_pairs(q, k, rotary):
    """Rotates (2i, 2i + 1)."""

    def turn(x):
        cos, sin = (a[:, None] for a in rotary)
        n = 2 * cos.shape[-1]
        a, b, y = x[..., 0:n:2], x[..., 1:n:2], x.copy()
        y[..., 0:n:2], y[..., 1:n:2] = a * cos - b * sin, b * cos + a * sin
        return y

    return turn(q), turn(k)


def delta_rule_of_tiled_heads(q, k, v, log_decay, beta, seg, state=None):
    index = np.arange(v.shape[1]) % q.shape[1]
    return reference.gated_delta_rule(q[:, index], k[:, index], v, log_decay, beta, seg, state)


def attention_unscaled(q, k, v, seg, kv=None):
    return reference.attention(q * np.float32(q.shape[-1] ** 0.5), k, v, seg, kv)


def conv_that_forgets(u, w, seg, tail=None):
    """Starts every pass from a zero past."""
    return reference.causal_conv1d(u, w, seg, None)


def l2_norm_of_mean(x, scale, eps=1e-6):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * np.float32(scale)


def rotary_from_one(position, inv_freq, axis, scale=1.0):
    return reference.rotary(position + 1, inv_freq, axis, scale)


def norm_of_plain_weight(x, w, eps, one_plus):
    return reference.rms_norm(x, w, eps, one_plus=False)


def gate_of_silu(o, gate):
    return o * gate * reference.sigmoid(gate)


def noisy_delta_rule(*args):
    """Wrong in a way that nobody knows."""
    return reference.gated_delta_rule(*args) * np.float32(1.01)
