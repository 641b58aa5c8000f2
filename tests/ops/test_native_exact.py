"""One token, one result: bits depend on nothing but the values. Every comparison here is ==."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.ops.segments import PAGE, Segments
from ingot.spec.formats import FORMATS
from tests.ops import native_cases as cases
from tests.ops.native_cases import same_bits

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

ISAS = native.available_isas()
OPS = native.OpSet(threads=2)
EACH = {isa: native.OpSet(threads=2, isa=isa) for isa in ISAS}

few = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", cases.CASES)
@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_gives_the_same_bits(isa: str, name: str) -> None:
    for seed in range(3):
        assert same_bits(cases.run(name, EACH[isa], seed), cases.run(name, EACH["scalar"], seed))


@pytest.mark.parametrize("name", cases.CASES)
def test_every_thread_count_gives_the_same_bits(name: str) -> None:
    want = cases.run(name, native.OpSet(threads=1))
    for threads in (2, 3, 7):
        ops = native.OpSet(threads=threads)
        for _ in range(3):
            assert same_bits(cases.run(name, ops), want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmt", FORMATS)
def test_a_row_alone_equals_a_row_among_others(isa: str, fmt: str) -> None:
    """More rows than one matmul tile; 1,100 inputs are interrupted twice, 1,101 leave a bf16 weight alone."""
    rng, ops = np.random.default_rng(0), EACH[isa]
    for inputs, rows in ((1100, 250 if isa != "scalar" else 20), (1101, 13)):
        leaves = [ops.matrix(cases.weights(rng, outputs, inputs), fmt) for outputs in (5, 150)]
        x = cases.draw(rng, rows, inputs)
        together = ops.linears(x, *leaves)
        for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16, 17):
            first = int(rng.integers(0, rows - count)) if rows > count else 0
            some = slice(first, min(first + count, rows))
            alone = ops.linears(np.ascontiguousarray(x[some]), *leaves)
            assert same_bits(alone, [y[some] for y in together]), (inputs, count)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_is_packed_and_multiplied_alike(isa: str, fmt: str) -> None:
    """The cases above are f32; shapes with padding in inputs, outputs and rows."""
    rng, ops, scalar = np.random.default_rng(3), EACH[isa], EACH["scalar"]
    for rows, inputs, outputs in ((1, 67, 149), (3, 1, 5), (29, 1030, 40), (7, 32, 16), (18, 96, 33)):
        w, x = cases.weights(rng, outputs, inputs), cases.draw(rng, rows, inputs)
        mine, theirs = ops.matrix(w, fmt), scalar.matrix(w, fmt)
        np.testing.assert_array_equal(mine.data, theirs.data)
        assert same_bits(ops.linears(x, mine), scalar.linears(x, theirs))


@pytest.mark.parametrize("name", ["norms", "gates"])
def test_rows_of_small_ops_are_alone(name: str) -> None:
    """The same row, repeated until the op spreads over threads, gives the same bits everywhere."""
    rng = np.random.default_rng(1)
    x, w = cases.draw(rng, 1, 91), cases.draw(rng, 91)
    many = np.repeat(x, 1000, axis=0)
    for op in (
        lambda x: OPS.rms_norm(x, w, 1e-6, True),
        lambda x: OPS.gated_rms_norm(x, x, w, 1e-6),
        lambda x: OPS.l2_norm(x, 0.5),
        lambda x: OPS.layer_norm(x, w, w, 1e-6),
        lambda x: OPS.gelu(x, True),
        lambda x: OPS.gelu(x, False),
        lambda x: OPS.silu_mul(x, x),
        lambda x: OPS.sigmoid_mul(x, x),
        lambda x: OPS.delta_gates(x, x, w, w)[0],
    ):
        assert same_bits([op(many)], [np.repeat(op(x), 1000, axis=0)])


# a sequence of `tokens`, run whole and run in pieces through pools; cut points anywhere

lengths = st.integers(1, 200)
cuts = st.lists(st.integers(0, 200), max_size=5)


def pieces(tokens: int, points: list[int]) -> list[tuple[int, int]]:
    edges = [0, *sorted(p % (tokens + 1) for p in points), tokens]
    return list(pairwise(edges))


def piece(first: int, end: int, slot: int, pages: list[int]) -> Segments:
    return cases.ragged([end - first], [first], [slot], np.array([pages]))


@pytest.mark.parametrize("isa", ISAS)
@given(seeds, lengths, cuts, st.integers(1, 9))
@few
def test_any_chunking_of_the_convolution(isa: str, seed: int, tokens: int, points: list[int], width: int) -> None:
    rng, ops = np.random.default_rng(seed), EACH[isa]
    u, w = cases.draw(rng, tokens, 37), cases.draw(rng, 37, width)
    whole_tail, tail = cases.draw(rng, 3, width - 1, 37), cases.draw(rng, 3, width - 1, 37)
    whole = ops.causal_conv1d(u, w, piece(0, tokens, 2, []), whole_tail)
    parts = [ops.causal_conv1d(u[a:b], w, piece(a, b, 1, []), tail) for a, b in pieces(tokens, points) if b > a]
    assert same_bits([np.concatenate(parts), tail[1]], [whole, whole_tail[2]])
    assert same_bits([whole], [ops.causal_conv1d(u, w, piece(0, tokens, -1, []))])


@pytest.mark.parametrize("isa", ISAS)
@given(seeds, st.integers(1, 60), cuts, st.sampled_from([(1, 1), (5, 17), (19, 53), (16, 32)]))
@few
def test_any_chunking_of_the_delta_rule(
    isa: str, seed: int, tokens: int, points: list[int], dims: tuple[int, int]
) -> None:
    rng, ops, (key_dim, value_dim) = np.random.default_rng(seed), EACH[isa], dims
    q, k, v = (
        cases.draw(rng, tokens, 2, key_dim),
        cases.draw(rng, tokens, 2, key_dim),
        cases.draw(rng, tokens, 4, value_dim),
    )
    k = ops.l2_norm(k, 1.0)
    decay, beta = -rng.random((tokens, 4), np.float32), rng.random((tokens, 4), np.float32)
    state, whole_state = ops.delta_state(3, 4, key_dim, value_dim), ops.delta_state(3, 4, key_dim, value_dim)
    whole = ops.gated_delta_rule(q, k, v, decay, beta, piece(0, tokens, 2, []), whole_state)
    parts = []
    for a, b in pieces(tokens, points):
        if b > a:
            parts.append(ops.gated_delta_rule(*(x[a:b] for x in (q, k, v, decay, beta)), piece(a, b, 0, []), state))
    assert same_bits([np.concatenate(parts), state[0]], [whole, whole_state[2]])
    assert same_bits([whole], [ops.gated_delta_rule(q, k, v, decay, beta, piece(0, tokens, -1, []))])


@pytest.mark.parametrize("isa", ISAS)
@given(seeds, lengths, cuts, st.sampled_from([(2, 2, 16), (6, 2, 23), (3, 1, 7), (13, 1, 40)]))
@few
def test_any_chunking_of_attention(
    isa: str, seed: int, tokens: int, points: list[int], dims: tuple[int, int, int]
) -> None:
    rng, ops, (heads, kv_heads, dim) = np.random.default_rng(seed), EACH[isa], dims
    q, k, v = (cases.draw(rng, tokens, n, dim) for n in (heads, kv_heads, kv_heads))
    stale = rng.standard_normal((2, 9, kv_heads, PAGE * dim), np.float32)  # pages hold another sequence's keys
    stale[:, ::2] = np.nan
    kv = (stale[0].reshape(9, kv_heads, dim, PAGE).copy(), stale[1].reshape(9, kv_heads, PAGE, dim).copy())
    pages = [int(p) for p in rng.permutation(9)[:4]]
    whole = ops.attention(q, k, v, piece(0, tokens, -1, [3, 1, 0, 2]), ops.kv_pool(4, kv_heads, dim))
    parts = [
        ops.attention(q[a:b], k[a:b], v[a:b], piece(a, b, -1, pages), kv) for a, b in pieces(tokens, points) if b > a
    ]
    assert same_bits([np.concatenate(parts)], [whole])
    assert same_bits([whole], [ops.attention(q, k, v, piece(0, tokens, -1, []))])


def poisoned_pages(ops: Any, pages: int, kv_heads: int, dim: int, fmt: str) -> tuple[np.ndarray, np.ndarray]:
    """Pages that hold what another sequence may have left: bits of NaN everywhere."""
    kv: tuple[np.ndarray, np.ndarray] = ops.kv_pool(pages, kv_heads, dim, fmt)
    for pool in kv:
        pool.view(np.uint8)[:] = 0xFF
    return kv


long_cuts = st.lists(st.integers(0, 2500), max_size=5)


@pytest.mark.parametrize("fmt", ["bf16", "q8"])
@pytest.mark.parametrize("isa", ISAS)
@given(seeds, lengths, cuts, st.sampled_from([(2, 2, 16), (6, 2, 23), (3, 1, 7), (13, 1, 40), (2, 1, 96)]))
@few
def test_any_chunking_of_attention_over_rounded_keys(
    isa: str, fmt: str, seed: int, tokens: int, points: list[int], dims: tuple[int, int, int]
) -> None:
    rng, ops, (heads, kv_heads, dim) = np.random.default_rng(seed), EACH[isa], dims
    q, k, v = (cases.draw(rng, tokens, n, dim) for n in (heads, kv_heads, kv_heads))
    whole = ops.attention(q, k, v, piece(0, tokens, -1, [3, 1, 0, 2]), ops.kv_pool(4, kv_heads, dim, fmt))
    assert np.isfinite(whole).all()
    kv, pages = poisoned_pages(ops, 9, kv_heads, dim, fmt), [int(p) for p in rng.permutation(9)[:4]]
    parts = [
        ops.attention(q[a:b], k[a:b], v[a:b], piece(a, b, -1, pages), kv) for a, b in pieces(tokens, points) if b > a
    ]
    assert same_bits([np.concatenate(parts)], [whole])


@pytest.mark.parametrize("fmt", ["bf16", "q8"])
@given(seeds, long_cuts)
@settings(max_examples=12)
def test_runs_of_blocks_are_combined_alike(fmt: str, seed: int, points: list[int]) -> None:
    """Beyond 1,024 keys runs may be reduced in parallel: by many threads, in decoding, in short slices."""
    rng, tokens = np.random.default_rng(seed), 2300
    q, k, v = 3 * cases.draw(rng, tokens, 4, 23), cases.draw(rng, tokens, 2, 23), cases.draw(rng, tokens, 2, 23)
    want = None
    for ops in (OPS, native.OpSet(threads=7)):
        kv, pages = poisoned_pages(ops, 37, 2, 23, fmt), [int(p) for p in rng.permutation(37)[:36]]
        edges = [*pieces(tokens - 2, points), (tokens - 2, tokens - 1), (tokens - 1, tokens)]
        parts = [ops.attention(q[a:b], k[a:b], v[a:b], piece(a, b, -1, pages), kv) for a, b in edges if b > a]
        want = np.concatenate(parts) if want is None else want
        assert same_bits([np.concatenate(parts)], [want])


@pytest.mark.parametrize("fmt", ["f32", "bf16", "q8"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_broken_token_reaches_none_before_it(isa: str, fmt: str) -> None:
    rng, ops, tokens, broken = np.random.default_rng(3), EACH[isa], 150, 85
    q, k, v = cases.draw(rng, tokens, 6, 40), cases.draw(rng, tokens, 2, 40), cases.draw(rng, tokens, 2, 40)
    pages = [2, 0, 1]
    whole = ops.attention(q, k, v, piece(0, tokens, -1, pages), ops.kv_pool(3, 2, 40, fmt))
    for value in (np.nan, np.inf, -np.inf):
        for array, head in ((k, 0), (v, 1)):
            bad = array.copy()
            bad[broken, head, 3] = value
            qkv = (q, bad, v) if array is k else (q, k, bad)
            got = ops.attention(*qkv, piece(0, tokens, -1, pages), ops.kv_pool(3, 2, 40, fmt))
            assert same_bits([got[:broken]], [whole[:broken]])
            assert same_bits([got[:, 3 - 3 * head : 6 - 3 * head]], [whole[:, 3 - 3 * head : 6 - 3 * head]])
            if np.isnan(value):
                assert np.isnan(got[broken:, 3 * head : 3 * head + 3]).any(axis=-1).all()


@pytest.mark.parametrize("fmt", ["bf16", "q8"])
def test_tiny_and_huge_keys_give_the_same_bits_everywhere(fmt: str) -> None:
    """Products never leave the normal numbers, where some instructions flush; NaN payloads are not promised."""
    rng = np.random.default_rng(5)
    q, k, v = (cases.draw(rng, 90, n, 40) for n in (4, 2, 2))
    for x in (q, k, v):
        x *= np.exp2(rng.integers(-140, 8, x.shape)).astype(np.float32)
    results = [ops.attention(q, k, v, piece(0, 90, -1, [1, 0]), ops.kv_pool(2, 2, 40, fmt)) for ops in EACH.values()]
    assert np.isfinite(results[0]).all()
    for other in results[1:]:
        assert same_bits([other], [results[0]])


@given(seeds, st.permutations([0, 1, 2]))
@few
def test_company_changes_nothing(seed: int, order: list[int]) -> None:
    """Three sequences, one of them decoding and one past 64 keys, in one pass in any order or one by one."""
    rng, lengths, starts = np.random.default_rng(seed), [1, 30, 7], [130, 0, 60]
    pages = np.array([[5, 2, 7], [0, 8, 8], [4, 1, 8]])
    tail, state = cases.draw(rng, 3, 3, 37), cases.draw(rng, 3, 4, 2, 19, 16)
    kv = cases.draw(rng, 9, 2, 23, PAGE), cases.draw(rng, 9, 2, PAGE, 23)
    w = cases.draw(rng, 37, 4)
    inputs = [
        [
            cases.draw(rng, n, *shape)
            for shape in ((37,), (2, 19), (2, 19), (4, 32), (4,), (4,), (6, 23), (2, 23), (2, 23))
        ]
        for n in lengths
    ]
    for each in inputs:
        each[2] = OPS.l2_norm(each[2], 1.0)
        each[4] = -np.abs(each[4])

    def pass_over(chosen: list[int], pools: tuple[Any, ...]) -> list[np.ndarray]:
        tail, state, kv = pools
        u, q, k, v, decay, beta, *qkv = (np.concatenate([inputs[s][i] for s in chosen]) for i in range(9))
        seg = cases.ragged([lengths[s] for s in chosen], [starts[s] for s in chosen], chosen, pages[chosen])
        outs = (
            OPS.causal_conv1d(u, w, seg, tail),
            OPS.gated_delta_rule(q, k, v, decay, beta, seg, state),
            OPS.attention(*qkv, seg, kv),
        )
        return [np.split(out, seg.offset[1:-1]) for out in outs]

    def pools() -> tuple[Any, ...]:
        return tail.copy(), state.copy(), (kv[0].copy(), kv[1].copy())

    first, second = pools(), pools()
    together = pass_over(list(order), first)
    for place, s in enumerate(order):
        alone = pass_over([s], second)
        assert same_bits([out[place] for out in together], [out[0] for out in alone])
    assert same_bits([*first[:2], *first[2]], [*second[:2], *second[2]])


def test_a_callers_float_environment_is_ignored_and_kept() -> None:
    """Another library may have turned on flush-to-zero in this thread."""
    torch = pytest.importorskip("torch")
    x = np.full((3, 40), 1e-30, np.float32)
    w = cases.tensor_of(np.full((20, 40), 1e-12, np.float32), "F32")
    want = OPS.linears(x, OPS.matrix(w, "f32"))
    assert want[0].max() > 0
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        assert same_bits(OPS.linears(x, OPS.matrix(w, "f32")), want)
        assert float(torch.tensor(1e-30) * 1e-12) == 0
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize(("fmt", "most"), [("f32", 2e-6), ("bf16", 6e-3), ("q8", 5e-2)])
def test_formats_of_keys_against_fp64(fmt: str, most: float) -> None:
    """Error of attention over 1,000 keys of one official head, a few channels 30 times the others."""
    rng, tokens = np.random.default_rng(11), 1000
    q, k, v = (cases.draw(rng, tokens, n, 256) for n in (4, 1, 1))
    k[..., :4] *= 30
    q[..., :4] /= 30
    o = OPS.attention(q, k, v, piece(0, tokens, -1, list(range(16))), OPS.kv_pool(16, 1, 256, fmt))
    score = np.einsum("the,sge->hts", q.astype(np.float64), k.astype(np.float64)) / 16
    score = np.where(np.tri(tokens, dtype=bool), score, -np.inf)
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    want = np.einsum("hts,sge->the", weight / weight.sum(axis=-1, keepdims=True), v.astype(np.float64))
    assert np.sqrt(np.mean((o - want) ** 2)) <= most * np.sqrt(np.mean(want**2))
