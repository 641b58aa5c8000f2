"""A run's state on disk, and the model's weights as others read them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ingot.spec import Config, weights_table
from ingot.store.save import save_safetensors
from ingot.store.tensor import tensor_of


def save_run(path: Path, state: dict[str, Any]) -> None:
    """Replace the file at once: a run that is killed while saving finds the state before it."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_run(path: Path) -> dict[str, Any] | None:
    """The saved state, or None where there is none."""
    return torch.load(path, weights_only=True) if path.exists() else None


def export_weights(path: Path, model: nn.Module, config: Config) -> None:
    """model.safetensors in the official dtypes: bf16, but fp32 for what the weights table keeps in fp32."""
    table = weights_table(config)
    dtypes = {"bf16": "BF16", "fp32": "F32"}
    tensors = ((n, tensor_of(p.detach().numpy(), dtypes[table[n].dtype])) for n, p in model.named_parameters())
    save_safetensors(path, tensors, {"format": "pt"})
