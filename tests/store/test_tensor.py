"""Tensor: exact conversions and the search for values that are not finite."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.store import FLOATING, Tensor, tensor_of

ALL_16_BITS = np.arange(1 << 16, dtype=np.uint16)


def test_every_bfloat16_reads_as_its_float32():
    torch = pytest.importorskip("torch")
    ours = Tensor(ALL_16_BITS, "BF16").float32()
    theirs = torch.from_numpy(ALL_16_BITS.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def test_rounding_to_bfloat16_is_nearest_even():
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(1).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    ties = (ALL_16_BITS.astype(np.uint32) << 16) | 0x8000
    values = np.concatenate([bits, ties, ties - 1, ties + 1]).view(np.float32)
    theirs = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    ours = tensor_of(values, "BF16").array
    finite = ~np.isnan(values)
    assert np.array_equal(ours[finite], theirs[finite])
    assert np.isnan(Tensor(ours[~finite], "BF16").float32()).all()


@pytest.mark.parametrize("dtype", FLOATING)
def test_float32_round_trip_keeps_the_bits(dtype):
    values = tensor_of(np.random.default_rng(2).standard_normal((3, 5, 7), np.float32), dtype)
    again = tensor_of(values.float32(), dtype)
    assert np.array_equal(values.array, again.array)
    assert again.shape == (3, 5, 7)
    assert again.dtype == dtype


def test_float32_is_a_new_writable_array():
    stored = np.zeros((2, 3), np.float32)
    Tensor(stored, "F32").float32()[:] = 1
    assert not stored.any()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_each_16_bit_pattern_is_judged_finite_or_not(dtype):
    array = ALL_16_BITS.view(np.float16) if dtype == "F16" else ALL_16_BITS
    finite = np.isfinite(Tensor(array, dtype).float32())
    judged = [Tensor(array[i : i + 1], dtype).first_not_finite() is None for i in range(1 << 16)]
    assert np.array_equal(finite, judged)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("place", [0, 1, 300_000, 700_002])
def test_the_first_bad_value_is_found(bad, dtype, place):
    values = np.full((700_003,), -3e38 if dtype != "F16" else -65504, np.float32)
    values[place:] = bad
    assert tensor_of(values, dtype).first_not_finite() == place


def test_integers_and_nothing_are_finite():
    assert Tensor(np.full(5, -1, np.int32), "I32").first_not_finite() is None
    assert tensor_of(np.empty((0, 3), np.float32), "BF16").first_not_finite() is None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Tensor(np.zeros(2), "FLOAT"), "dtype 'FLOAT' is not one of BOOL, U8"),
        (lambda: Tensor(np.zeros(2, np.float32), "BF16"), "a BF16 tensor is held as uint16, not as float32"),
        (lambda: Tensor(np.zeros(2, np.int8), "I8").float32(), "a I8 tensor cannot be read as float32; only F32, BF16"),
        (lambda: tensor_of(np.zeros(2), "F64"), "dtype 'F64' cannot hold weights; allowed are F32, BF16, F16"),
    ],
)
def test_what_is_refused(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert sentence in str(caught.value)
