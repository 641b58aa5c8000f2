"""What a block's bytes stand for, against the formulas written out in double precision, one weight at a time."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from ingot.store.blocks import BLOCKS, QuantisedTensor, dequantise
from tests.store import gguf_files as files
from tests.tolerance import DEQUANTISED_OF_SCALE

KINDS = files.KINDS


def half(block, at):
    return struct.unpack_from("<e", block, at)[0]


def q4_0(block, i):
    q = block[2 + i % 16] >> (4 if i >= 16 else 0) & 15
    return half(block, 0) * (q - 8)


def q4_1(block, i):
    return half(block, 0) * (block[4 + i % 16] >> (4 if i >= 16 else 0) & 15) + half(block, 2)


def q5_0(block, i):
    fifth = struct.unpack_from("<I", block, 2)[0] >> i & 1
    return half(block, 0) * ((block[6 + i % 16] >> (4 if i >= 16 else 0) & 15 | fifth << 4) - 16)


def q5_1(block, i):
    fifth = struct.unpack_from("<I", block, 4)[0] >> i & 1
    return half(block, 0) * (block[8 + i % 16] >> (4 if i >= 16 else 0) & 15 | fifth << 4) + half(block, 2)


def q8_0(block, i):
    return half(block, 0) * struct.unpack_from("<b", block, 2 + i)[0]


def six_bits(block, group):
    """The scale and the minimum of a group of 32."""
    s = block[4:16]
    if group < 4:
        return s[group] & 63, s[group + 4] & 63
    return s[group + 4] & 15 | s[group - 4] >> 6 << 4, s[group + 4] >> 4 | s[group] >> 6 << 4


def q4_k(block, i):
    group, byte = i // 32, 16 + i // 64 * 32 + i % 32
    scale, least = six_bits(block, group)
    return half(block, 0) * scale * (block[byte] >> 4 * (group % 2) & 15) - half(block, 2) * least


def q5_k(block, i):
    group, byte = i // 32, 48 + i // 64 * 32 + i % 32
    scale, least = six_bits(block, group)
    q = block[byte] >> 4 * (group % 2) & 15 | (block[16 + i % 32] >> group & 1) << 4
    return half(block, 0) * scale * q - half(block, 2) * least


def q6_k(block, i):
    part, at = divmod(i, 128)
    quarter, lane = divmod(at, 32)
    low = block[64 * part + 32 * (quarter % 2) + lane] >> (4 if quarter > 1 else 0) & 15
    high = block[128 + 32 * part + lane] >> 2 * quarter & 3
    scale = struct.unpack_from("<b", block, 192 + i // 16)[0]
    return half(block, 208) * scale * ((low | high << 4) - 32)


FORMULAS = {name: globals()[name.lower()] for name in KINDS}


@pytest.mark.parametrize("dtype", KINDS)
def test_a_block_stands_for_what_its_formula_says(dtype):
    raw = files.blocks((3, 512), KINDS[dtype], seed=1)
    block = BLOCKS[dtype]
    found = dequantise(np.frombuffer(raw, np.uint8).reshape(3, -1), dtype).reshape(-1, block.weights)
    for number in range(len(found)):
        own = raw[number * block.nbytes : (number + 1) * block.nbytes]
        want = np.array([FORMULAS[dtype](own, i) for i in range(block.weights)])
        np.testing.assert_allclose(found[number], want, rtol=0, atol=DEQUANTISED_OF_SCALE * np.abs(want).max())
        assert found.dtype == np.float32


def tensor(dtype="Q8_0", rows=5, columns=96, **orders):
    raw = np.frombuffer(files.blocks((rows, columns), KINDS[dtype], seed=2), np.uint8).reshape(rows, -1)
    return QuantisedTensor(raw.copy(), dtype, (rows, columns), lambda begin, end: None, **orders)


def test_rows_are_dequantised_as_asked():
    whole = tensor().float32()
    assert np.array_equal(tensor().float32(slice(1, 3)), whole[1:3])
    assert np.array_equal(tensor().float32(np.array([4, 0, 4])), whole[[4, 0, 4]])
    assert tensor().float32(slice(2, 2)).shape == (0, 96)


def test_orders_move_rows_and_columns():
    rows, columns = np.array([3, 0, 4, 1, 2]), np.random.default_rng(0).permutation(96)
    moved = tensor(row_order=rows, column_order=columns)
    assert np.array_equal(moved.float32(), tensor().float32()[rows][:, columns])
    assert np.array_equal(moved.float32(np.array([1])), moved.float32()[1:2])


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_scale_that_is_not_finite_is_found_where_it_is_read(dtype, bad):
    rows = np.array([2, 0, 1])
    broken = tensor(dtype, 3, 512, row_order=rows)
    assert broken.first_not_finite() is None
    block, at = BLOCKS[dtype], BLOCKS[dtype].scales[-1]
    row = broken.raw[1].reshape(-1, block.nbytes)
    row[1, at : at + 2] = np.array([bad], "<f2").view(np.uint8)
    place = broken.first_not_finite()
    assert place is not None
    assert place // 512 == 2  # stored row 1 is row 2
    assert place % 512 // block.weights == 1
    assert not np.isfinite(broken.float32().reshape(-1)[place])
