"""How the official models want to be sampled: their model cards' values, by size, thinking mode and task."""

from __future__ import annotations

from ingot.spec.config import TextConfig

NAMES = ("temperature", "top_p", "top_k", "presence_penalty")
# (thinks, task) -> NAMES, of the model cards of 2026-03; min_p is 0 and repetition_penalty 1 in all. Small models loop
# while they think, hence the penalties; code repeats itself rightly, hence none there.
CARD: dict[str, dict[tuple[bool, str], tuple[float, float, int, float]]] = {
    "small": {
        (False, "general"): (1.0, 1.00, 20, 2.0),
        (False, "vision"): (0.7, 0.80, 20, 1.5),
        (True, "general"): (1.0, 0.95, 20, 1.5),
        (True, "coding"): (0.6, 0.95, 20, 0.0),
        (True, "vision"): (0.6, 0.95, 20, 0.0),
    },
    "large": {
        (False, "general"): (0.7, 0.80, 20, 1.5),
        (False, "reasoning"): (1.0, 1.00, 40, 2.0),  # the card also says 1.0, 0.95, 20, 1.5, in another place
        (True, "general"): (1.0, 0.95, 20, 1.5),
        (True, "coding"): (0.6, 0.95, 20, 0.0),
    },
}
PRESETS = tuple(dict.fromkeys(task for card in CARD.values() for _, task in card))
SMALL_HIDDEN_SIZE = 2048  # 0.8B and 2B share one card's values, 4B and 9B the other's


def sampling_preset(text: TextConfig, thinking: bool, task: str = "general") -> dict[str, float]:
    """Sampling parameters that the card of the model's size gives for a task, with or without thinking; ValueError with
    those that it has."""
    card = CARD[_size(text)]
    _check(text, task)
    if (thinking, task) not in card:
        modes = " and ".join(sorted(name for thinks, name in card if thinks == thinking))
        raise ValueError(
            f"preset is {task!r}, which the model card has {'without' if thinking else 'with'} thinking only; "
            f"{'with' if thinking else 'without'} it there are {modes}"
        )
    return dict(zip(NAMES, card[thinking, task], strict=True))


def preset_thinking(text: TextConfig, task: str) -> bool | None:
    """Whether a preset is for thinking; None when the card has it for both modes."""
    _check(text, task)
    modes = {thinks for thinks, name in CARD[_size(text)] if name == task}
    return modes.pop() if len(modes) == 1 else None


def _check(text: TextConfig, task: str) -> None:
    known = list(dict.fromkeys(name for _, name in CARD[_size(text)]))
    if task not in known:
        raise ValueError(f"preset is {task!r}; the card of a model of this size has {', '.join(known)}")


def _size(text: TextConfig) -> str:
    return "small" if text.hidden_size <= SMALL_HIDDEN_SIZE else "large"
