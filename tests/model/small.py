"""A small model with unequal dimensions, its weights drawn from a seed, for every op set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ingot.spec import Config, Weight, parse_config
from ingot.store import Tensor
from ingot.store.random import random_weight

RAW: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "vocab_size": 101,
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 14,
    "linear_value_head_dim": 20,
    "mtp_num_hidden_layers": 1,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 2, 2],
        "rope_type": "default",
    },
}


def small_config(**changes: Any) -> Config:
    return parse_config(RAW | changes)


def weights(seed: int = 0) -> Callable[[Weight], Tensor]:
    """The random tensor of each weight, a function of the seed and its name alone; norms far from their defaults."""

    def read(weight: Weight) -> Tensor:
        rng = np.random.default_rng([seed, *weight.name.encode()])
        tensor = random_weight(weight, "F32", rng)
        if weight.role.startswith("norm"):
            return Tensor((tensor.array + 0.3 * rng.standard_normal(weight.shape)).astype(np.float32), "F32")
        return tensor

    return read
