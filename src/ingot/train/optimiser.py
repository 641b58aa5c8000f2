"""AdamW with groups by role, and the schedule of its learning rate."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from ingot.spec import Config, weights_table

# Only matrices decay: a decayed norm, gate or decay rate drifts from where training wants it, and an embedding's rare
# rows vanish.
DECAYED_ROLES = ("matrix", "gate")


def adamw(model: nn.Module, config: Config, learning_rate: float, decay: float, betas: tuple[float, float]) -> AdamW:
    """AdamW over the model's parameters.

    Weight decay by role. Raises KeyError for a parameter that the weights table lacks.
    """
    table = weights_table(config)
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[table[name].role in DECAYED_ROLES].append(parameter)
    return AdamW(
        [{"params": groups[True], "weight_decay": decay}, {"params": groups[False], "weight_decay": 0.0}],
        lr=learning_rate, betas=betas,
    )  # fmt: skip


def warm_hold_fall(step: int, steps: int, warm: int, fall: float) -> float:
    """The factor of the learning rate at `step`: up in `warm` steps, held, down in a line to 0 over the last `fall`
    of `steps`.
    """
    return min(1.0, (step + 1) / warm, (steps - step) / max(1.0, fall * steps))


def set_rate(optimiser: AdamW, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
