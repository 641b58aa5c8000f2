"""What the weight formats hold and how they multiply, against a definition in numpy and float64."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.spec.formats import FORMATS, packed_bytes
from ingot.store.tensor import tensor_of
from tests.ops import native_cases as cases

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

OPS = native.OpSet(threads=2)
CODEBOOK = np.array([-127, -98, -76, -59, -45, -31, -19, -8, 2, 12, 22, 34, 47, 62, 80, 104], np.float64)


def bf16(x: np.ndarray) -> np.ndarray:
    return tensor_of(np.asarray(x, np.float32), "BF16").float32().astype(np.float64)


def unpacked(leaf: native.Packed) -> np.ndarray:
    """float64 [O, I] of a packed matrix, read byte by byte as native/table.h describes it."""
    outputs, inputs = leaf.shape
    panels = len(leaf.data)
    if leaf.fmt == "f32":
        wide = leaf.data.view(np.float32).reshape(panels, -1, 16).transpose(0, 2, 1)
    elif leaf.fmt == "bf16":
        pairs = leaf.data.view(np.uint16).reshape(panels, -1, 16, 2).transpose(0, 2, 1, 3)
        wide = (pairs.astype(np.uint32) << 16).view(np.float32)
    else:
        blocks = leaf.data.reshape(panels, -1, 1088 if leaf.fmt == "q8" else 576)
        scale = (blocks[..., :64].copy().view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        groups = blocks[..., 64:].reshape(*blocks.shape[:2], 2, -1, 16, 4)
        if leaf.fmt == "q4":
            values = CODEBOOK[np.concatenate([groups & 15, groups >> 4], axis=3)]
        else:
            values = groups.view(np.int8).astype(np.float64)
        wide = values * scale.reshape(*blocks.shape[:2], 2, 1, 16, 1)
        wide = wide.transpose(0, 4, 1, 2, 3, 5)
    return wide.astype(np.float64).reshape(panels * 16, -1)[:outputs, :inputs]


def rounded(x: np.ndarray, fmt: str) -> np.ndarray:
    """What a matrix in `fmt` sees of x [T, I]."""
    if fmt == "f32":
        return x.astype(np.float64)
    if fmt == "bf16":
        return bf16(x)
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % 32))).reshape(len(x), -1, 32)
    top = np.abs(padded).max(2, keepdims=True)
    whole = np.rint(padded * (np.float32(127) / top)).astype(np.float64)  # float32 up to here: a tie must fall alike
    return (whole * (top / np.float32(127))).reshape(len(x), -1)[:, : x.shape[1]]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 32), (5, 1), (40, 67), (149, 1030)])
def test_a_product_is_that_of_the_rounded_values(fmt: str, outputs: int, inputs: int) -> None:
    rng = np.random.default_rng(0)
    leaf = OPS.matrix(cases.weights(rng, outputs, inputs), fmt)
    assert leaf.data.size == packed_bytes((outputs, inputs), fmt)
    for rows in (1, 3, 16, 37):
        x = cases.draw(rng, rows, inputs)
        want = rounded(x, fmt) @ unpacked(leaf).T
        np.testing.assert_allclose(leaf(x), want, rtol=0, atol=3e-6 * np.abs(want).max() + 1e-30)


# Root mean square error of normal weights, relative to theirs. Q4_0's rounding (scale = the largest / -8) leaves 0.086.
@pytest.mark.parametrize(("fmt", "most"), [("f32", 0), ("bf16", 0.0018), ("q8", 0.0065), ("q4", 0.0740)])
def test_rounding_error(fmt: str, most: float) -> None:
    w = np.random.default_rng(1).normal(size=(512, 512)).astype(np.float32)
    error = unpacked(OPS.matrix(tensor_of(w, "F32"), fmt)) - w
    assert np.sqrt((error**2).mean()) <= most


@pytest.mark.parametrize("fmt", FORMATS)
def test_groups_of_zeros_and_huge_and_tiny_weights(fmt: str) -> None:
    w = np.random.default_rng(2).normal(size=(16, 128)).astype(np.float32)
    w[:, :32], w[:, 32:64], w[:, 64:96] = 0, w[:, 32:64] * 1e30, w[:, 64:96] * 1e-30
    leaf = OPS.matrix(tensor_of(w, "F32"), fmt)
    assert not unpacked(leaf)[:, :32].any()
    for group in range(4):
        x = np.zeros((1, 128), np.float32)
        x[:, 32 * group : 32 * group + 32] = 1
        want = (w.astype(np.float64) @ x.T.astype(np.float64)).T
        np.testing.assert_allclose(leaf(x), want, rtol=0, atol=0.3 * np.abs(want).max())


@pytest.mark.parametrize("fmt", ["q8", "q4"])
def test_activations_of_zeros_huge_and_tiny(fmt: str) -> None:
    rng = np.random.default_rng(3)
    leaf = OPS.matrix(cases.weights(rng, 16, 64), fmt)
    for size in (0.0, 1e-38, 1e-20, 1e30):
        x = (cases.draw(rng, 2, 64) * np.float32(size)).astype(np.float32)
        y = leaf(x)
        assert np.isfinite(y).all()
        if size > 1e-30:
            want = x.astype(np.float64) @ unpacked(leaf).T
            assert np.abs(y - want).max() <= 0.03 * np.abs(want).max()


@pytest.mark.parametrize("stored", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_stored_dtype_is_packed(stored: str, fmt: str) -> None:
    rng = np.random.default_rng(6)
    tensor = tensor_of(cases.draw(rng, 37, 33), stored)
    leaf = OPS.matrix(tensor, fmt)
    assert leaf.shape == (37, 33)
    assert leaf.data.ctypes.data % 64 == 0
    want = bf16(tensor.float32()) if fmt == "bf16" else tensor.float32()
    if fmt in ("f32", "bf16"):
        np.testing.assert_array_equal(unpacked(leaf), want)
    np.testing.assert_array_equal(leaf.data, OPS.matrix(tensor_of(tensor.float32(), "F32"), fmt).data)


def test_an_embedding_is_read_as_stored_and_its_head_is_packed() -> None:
    rng = np.random.default_rng(7)
    tensor = cases.weights(rng, 53, 64)
    ids = np.array([52, 0, 17], np.int32)
    for fmt in FORMATS:
        leaf = OPS.embedding(tensor, fmt, tied=True)
        np.testing.assert_array_equal(OPS.embed(leaf, ids), tensor.float32()[ids])
        x = cases.draw(rng, 2, 64)
        np.testing.assert_array_equal(leaf(x), OPS.matrix(tensor, fmt)(x))
    alone = OPS.embedding(tensor, "q4")
    assert alone.head is None
    with pytest.raises(TypeError, match="does not tie"):
        alone(x)
