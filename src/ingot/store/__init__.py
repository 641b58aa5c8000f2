"""Files: safetensors in and out, GGUF in, checkpoint directories, the hub."""

from __future__ import annotations

from ingot.store.blocks import QuantisedTensor
from ingot.store.checkpoint import Checkpoint, glance, open_checkpoint
from ingot.store.hub import resolve
from ingot.store.mapped import TensorInfo
from ingot.store.random import write_random_checkpoint
from ingot.store.safetensors import SafetensorsFile
from ingot.store.save import SafetensorsWriter, save_safetensors
from ingot.store.tensor import FLOATING, Tensor, tensor_of

__all__ = [
    "FLOATING",
    "Checkpoint",
    "QuantisedTensor",
    "SafetensorsFile",
    "SafetensorsWriter",
    "Tensor",
    "TensorInfo",
    "glance",
    "open_checkpoint",
    "resolve",
    "save_safetensors",
    "tensor_of",
    "write_random_checkpoint",
]
