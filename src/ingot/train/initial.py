"""The weights a model starts from, drawn by role."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ingot.spec import Weight

# Steps of the decay are drawn from here and its rates from U(1, 16), as in Mamba and FLA: a head then forgets half in
# 4 to 700 tokens. Hugging Face's start (dt_bias = 1) forgets everything at every token, and training
# hardly changes it. On sums of thirty tokens that made little difference: recipes/nugget.md has our measurement.
STEP_RANGE = (1e-3, 0.1)
RATE_RANGE = (1.0, 16.0)
EMBEDDING_STD = 0.02  # Hugging Face's initializer_range


def initial_weights(seed: int, decay: str = "slow") -> Callable[[Weight], Tensor]:
    """A reader for `ingot.model.tree.build`: float32 tensors, the same for the same seed.

    `decay` "slow" is the default above; "hugging_face" is that library's, kept for comparison. Matrices are drawn with
    variance 1 / fan-in, norms begin as the identity.
    """
    if decay not in ("slow", "hugging_face"):
        raise ValueError(f"decay is {decay!r}; it must be 'slow' or 'hugging_face'.")
    random = torch.Generator().manual_seed(seed)

    def draw(weight: Weight) -> Tensor:
        if weight.role in ("norm1p", "bias"):
            return torch.zeros(weight.shape)
        if weight.role == "norm":
            return torch.ones(weight.shape)
        if weight.role == "decay":
            return _decay(weight, decay, random)
        std = EMBEDDING_STD if weight.role == "embedding" else math.prod(weight.shape[1:]) ** -0.5
        return torch.randn(weight.shape, generator=random) * std

    return draw


def _decay(weight: Weight, kind: str, random: torch.Generator) -> Tensor:
    if weight.name.endswith("A_log"):
        low = RATE_RANGE[0] if kind == "slow" else 1e-3
        return torch.empty(weight.shape).uniform_(low, RATE_RANGE[1], generator=random).log()
    if kind == "hugging_face":
        return torch.ones(weight.shape)
    step = torch.empty(weight.shape).uniform_(*map(math.log, STEP_RANGE), generator=random).exp()
    return step + torch.log(-torch.expm1(-step))  # softplus of this is the step
