"""Drafts in a whole model: logits and states are those of plain decoding, whatever is accepted. Comparisons are ==."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ingot.model import add_windows, build, new_pools, settle
from ingot.model.composite import Unfused
from ingot.model.decoder import delta_layer
from ingot.model.gated_delta_net import delta_mixer
from ingot.ops.segments import Segments
from tests.model.small import small_config, weights
from tests.ops import native_cases as cases

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

CONFIG, LENGTH = small_config(), 5
PAGES = np.array([[3, 1, 0], [5, 2, 4]], np.int32)
IDS = np.random.default_rng(7).integers(0, CONFIG.text.vocab_size, (2, 130)).astype(np.int32)
EACH = {
    (isa, fmt): (ops := native.OpSet(threads=2, isa=isa), build(CONFIG, ops, weights(), fmt))
    for isa in native.available_isas()
    for fmt in ("f32", "q8")
}
OPS, ROOT = EACH[native.available_isas()[0], "f32"]


class Rows:
    """Two sequences in one model's pools."""

    def __init__(self, ops: Any, root: Any, drafts: int = 0) -> None:
        self.ops, self.root, self.pools = ops, root, new_pools(ops, CONFIG, slots=2, pages=6)
        self.length, self.accepted = [0, 0], [0, 0]
        if drafts:
            add_windows(ops, CONFIG, self.pools, 2, drafts)

    def feed(self, s: int, ids: np.ndarray, commit: int | None = None) -> Segments:
        offset, start = np.array([0, len(ids)], np.int32), np.array([self.length[s]], np.int32)
        position = np.tile(np.arange(len(ids), dtype=np.int32) + start, (3, 1))
        seg = Segments(offset, start, position, np.array([s], np.int32), PAGES[s : s + 1])
        if commit is None:
            return seg
        drafts = {"window": 1 - s, "accepted": self.accepted[s], "commit": commit}
        return replace(seg, **{name: np.array([n], np.int32) for name, n in drafts.items()})

    def run(self, *passes: tuple[int, np.ndarray, int | None]) -> np.ndarray:
        ids = np.concatenate([ids for _, ids, _ in passes])
        seg = Segments.joined([self.feed(*each) for each in passes])
        return self.root(self.ops, ids, seg, self.pools)

    def state(self, s: int) -> list[np.ndarray]:
        return [array[s] for i in self.pools.linear for array in self.pools.layers[i][:2]]


def plain(ops: Any, root: Any, lengths: list[int]) -> tuple[list[np.ndarray], Rows]:
    """Logits of each sequence's tokens, one by one, and what they leave."""
    rows, logits = Rows(ops, root), []
    for s, length in enumerate(lengths):
        each = []
        for t in range(length):
            each.append(rows.run((s, IDS[s, t : t + 1], None)))
            rows.length[s] += 1
        logits.append(np.concatenate([*each, np.empty((0, CONFIG.text.vocab_size), np.float32)]))
    return logits, rows


# a pass: for each of two sequences tokens that are certain, tokens that are tried, how many of these are right
part = st.tuples(st.integers(0, 9), st.integers(0, LENGTH), st.integers(0, LENGTH))
schedules = st.lists(st.tuples(part, part), min_size=1, max_size=5)


@pytest.mark.parametrize("isa", native.available_isas())
@given(schedules, st.sampled_from(["f32", "q8"]))
@settings(max_examples=20)
def test_any_schedule_of_drafts(isa: str, schedule: list[tuple[tuple[int, int, int], ...]], fmt: str) -> None:
    ops, root = EACH[isa, fmt]
    rows, got = Rows(ops, root, LENGTH), [[], []]
    for parts in schedule:
        fed, counts = [], []
        for s, (certain, tried, right) in enumerate(parts):
            at, right = rows.length[s], min(tried, right)
            ids = IDS[s, at : at + certain + tried].copy()
            ids[certain + right :] = (ids[certain + right :] + 1) % CONFIG.text.vocab_size
            fed.append((s, ids, certain))
            counts.append((certain, right))
        logits = rows.run(*fed)
        for s, each in enumerate(np.split(logits, [len(fed[0][1])])):
            got[s].append(each[: sum(counts[s])])
            rows.length[s], rows.accepted[s] = rows.length[s] + sum(counts[s]), counts[s][1]
    want, other = plain(ops, root, rows.length)
    for s in range(2):
        assert cases.same_bits([np.concatenate(got[s])], [want[s]])
        if rows.accepted[s]:
            settle(ops, CONFIG, rows.pools, s, 1 - s, rows.accepted[s])
        if rows.length[s]:
            assert cases.same_bits(rows.state(s), other.state(s))


def test_settling_twice_is_settling_once() -> None:
    """Nothing is accepted the second time; the drafts themselves are still there."""
    rows = Rows(OPS, ROOT, LENGTH)
    rows.run((1, IDS[1, :6], 2))
    rows.length[1] = 5
    settle(OPS, CONFIG, rows.pools, 1, 0, 3)
    first = [x.copy() for x in rows.state(1)]
    rows.accepted[1] = 0
    rows.run((1, IDS[1, :0], 0))
    assert cases.same_bits(rows.state(1), first)
    assert cases.same_bits(first, plain(OPS, ROOT, [0, 5])[1].state(1))


@pytest.mark.parametrize("isa", native.available_isas())
@given(st.integers(0, 2**32 - 1), st.sampled_from(["f32", "q8"]), st.sampled_from([1, LENGTH, 32]))
@settings(max_examples=20)
def test_fused_layers_equal_their_bodies(isa: str, seed: int, fmt: str, length: int) -> None:
    """Any runs, one beside the other: what is given, and all that is written."""
    rng, (ops, root) = np.random.default_rng(seed), EACH[isa, fmt]
    layer, pools = root.model.layers[0], new_pools(ops, CONFIG, slots=5, pages=1)
    add_windows(ops, CONFIG, pools, 4, length)
    pool = pools.layer(0)
    for array in pool:
        array[:] = cases.draw(rng, *array.shape)
    pool[2][..., -12:] = rng.random(pool[2][..., -12:].shape, np.float32)  # decay and beta
    seg = cases.tried(rng, length)
    assume(seg.tokens)  # a body is not asked for none
    x_TD = cases.draw(rng, seg.tokens, 36)
    for body, fused, w in (
        (delta_layer, ops.delta_layer, layer),
        (delta_mixer, ops.delta_mixer, layer.linear_attn),
    ):
        rotary = (None,) if body is delta_layer else ()
        first, second = ([x.copy() for x in pool] for _ in range(2))
        want = body.__wrapped__(Unfused(ops), w, x_TD, seg, *rotary, tuple(first))
        got = fused(w, x_TD, seg, *rotary, tuple(second))
        assert cases.same_bits([got, *second], [want, *first]), body.__name__


@pytest.mark.parametrize("part", ["delta_layer", "delta_mixer"])
def test_drafts_that_a_fused_layer_refuses(part: str) -> None:
    """Both need a tail and a state, and rows that are neither shorter nor longer; nothing is written before."""
    layer, pools = ROOT.model.layers[0], new_pools(OPS, CONFIG, slots=2, pages=1)
    add_windows(OPS, CONFIG, pools, 1, LENGTH)
    tail, state, drafts = pools.layer(0)
    text = CONFIG.text
    row = text.conv_dim + 2 * 14 + 6 * (20 + 2)
    longer, shorter = (np.zeros((1, LENGTH, row + more), np.float32) for more in (1, -1))
    seg = replace(
        cases.ragged([3], [7], [1]),
        **{name: np.array([n], np.int32) for name, n in (("window", 0), ("accepted", 2), ("commit", 1))},
    )
    x_TD = cases.draw(np.random.default_rng(0), 3, 36)
    node, rest = (layer, (None,)) if part == "delta_layer" else (layer.linear_attn, ())
    for pool, sentence in (
        ((None, state, drafts), "drafts wait for a tail and a state; both are needed"),
        ((tail, None, drafts), "drafts wait for a tail and a state; both are needed"),
        ((tail, state, longer), f"drafts has R = {row + 1} columns, expected {row}"),
        ((tail, state, shorter), f"drafts has R = {row - 1} columns, expected {row}"),
        ((tail, state, drafts[:, :1].copy()), r"accepted\[0\] is 2, expected 0 to 1: the run has room for 1 drafts"),
    ):
        with pytest.raises(ValueError, match=f"{part}: {sentence}"):
            getattr(OPS, part)(node, x_TD, seg, *rest, pool)
    assert not any(array.any() for array in (tail, state, drafts))
