"""YaRN: rotary frequencies for sequences longer than those of the training (Peng et al. 2023, as Qwen's model cards
apply it).

N frequencies, half the rotary dims.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np

from ingot.spec.config import RopeParameters

PI = Decimal("3.14159265358979323846264338327950288")


def stretched(inv_freq_N: np.ndarray, power_N: np.ndarray, rope: RopeParameters) -> tuple[np.ndarray, float]:
    """float32 inv_freq_N for a context `factor` times as long, and the factor of cos and sin.

        inv_freq = share / power + (1 - share) / (factor power)

    power = theta^(n / N). A frequency that turns more than beta_fast times in the original context stays (share 1), one
    that turns less than beta_slow times is slowed down (share 0), with a ramp between. In fp32, in the order of the
    code that others run, so that the frequencies are theirs to the last bits; logarithms are decimal: every machine has
    the same.
    """
    count, factor = len(inv_freq_N), np.float32(rope.factor)
    slowed_N = np.float32(1) / (factor * power_N)
    low, high = _ramp_ends(rope, 2 * count)
    ramp_N = (np.arange(count, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    share_N = np.float32(1) - np.clip(ramp_N, np.float32(0), np.float32(1))
    return slowed_N * (np.float32(1) - share_N) + inv_freq_N * share_N, attention_factor(rope)


def attention_factor(rope: RopeParameters) -> float:
    """What cos and sin are multiplied by: given, or 0.1 ln(factor) + 1, or the ratio of two such with mscale."""
    if rope.attention_factor is not None:
        return rope.attention_factor
    log = float(Decimal(rope.factor or 1.0).ln())

    def scale(m: float) -> float:
        return 0.1 * m * log + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


def _ramp_ends(rope: RopeParameters, dim: int) -> tuple[float, float]:
    """The frequency numbers between which the ramp falls: where beta_fast and beta_slow turns are made."""
    with localcontext() as context:
        context.prec = 40
        length, theta = Decimal(rope.original_max_position_embeddings or 0), Decimal(rope.rope_theta)

        def place(turns: float) -> Decimal:
            return dim * (length / (Decimal(turns) * 2 * PI)).ln() / (2 * theta.ln())

        low, high = place(rope.beta_fast or 32.0), place(rope.beta_slow or 1.0)
        if rope.truncate is not False:
            low, high = low.to_integral_value("ROUND_FLOOR"), high.to_integral_value("ROUND_CEILING")
    first, last = max(float(low), 0.0), min(float(high), dim - 1.0)
    return first, last if last != first else last + 0.001
