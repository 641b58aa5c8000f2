"""Rotary frequencies are those every implementation of the family computes, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.model.attention import rope_frequencies
from ingot.spec import official, parse_config

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("size", ["0.8b", "9b"])
def test_official_frequencies_equal_torch_to_the_bit(size):
    inv_freq, axis, scale = rope_frequencies(parse_config(official(size)).text)
    exponent = torch.arange(0, 64, 2, dtype=torch.float) / 64
    assert np.array_equal(inv_freq, (1.0 / (1e7**exponent)).numpy())
    assert scale == 1.0
    assert axis.tolist() == [0, 1, 2] * 10 + [0, 1]
    assert np.bincount(axis).tolist() == [11, 11, 10]
