"""How the official models want to be sampled: their model cards' values, by size and thinking mode."""

from __future__ import annotations

from ingot.spec.config import TextConfig

# temperature, top_p, top_k, presence_penalty of the model cards of 2026-03; min_p is 0 and repetition_penalty 1 in all.
# Small models loop while they think, hence the penalties.
CARD = {
    ("small", False): (1.0, 1.00, 20, 2.0),
    ("small", True): (1.0, 0.95, 20, 1.5),
    ("large", False): (0.7, 0.80, 20, 1.5),
    ("large", True): (1.0, 0.95, 20, 1.5),
}
SMALL_HIDDEN_SIZE = 2048  # 0.8B and 2B share one card's values, 4B and 9B the other's


def sampling_preset(text: TextConfig, thinking: bool) -> dict[str, float]:
    """Sampling parameters that the card of the model's size gives for a conversation with or without thinking."""
    size = "small" if text.hidden_size <= SMALL_HIDDEN_SIZE else "large"
    temperature, top_p, top_k, presence_penalty = CARD[size, thinking]
    return {"temperature": temperature, "top_p": top_p, "top_k": top_k, "presence_penalty": presence_penalty}
