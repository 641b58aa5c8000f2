"""Tokens that are tried and not certain: whatever is accepted of them, output, tail and state are those of tokens fed
one by one. Every comparison on the native op set is ==.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.ops import reference
from ingot.ops.segments import Segments
from tests.ops import native_cases as cases
from tests.ops.native_cases import same_bits

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

EACH = {isa: native.OpSet(threads=2, isa=isa) for isa in native.available_isas()} | {"reference": reference}
CHANNELS, WIDTH, KEYS, HEADS, KEY_DIM, VALUE_DIM, LENGTH = 37, 4, 2, 6, 19, 21, 7
ROW = CHANNELS + KEYS * KEY_DIM + HEADS * (VALUE_DIM + 2)

# of a pass: tokens that are certain, tokens that are not, how many of those are accepted
passes = st.lists(st.tuples(st.integers(0, 70), st.integers(0, LENGTH), st.integers(0, LENGTH)), min_size=1, max_size=5)


class Sequence:
    """One sequence's pools, and what it was fed."""

    def __init__(self, ops: Any, rng: np.random.Generator, tokens: int) -> None:
        self.ops, self.length, self.accepted = ops, 0, 0
        self.u, self.w = cases.draw(rng, tokens, CHANNELS), cases.draw(rng, CHANNELS, WIDTH)
        q, k = (cases.draw(rng, tokens, KEYS, KEY_DIM) for _ in range(2))
        gates = rng.random((2, tokens, HEADS), np.float32)
        self.rows = [q, ops.l2_norm(k, 1.0), cases.draw(rng, tokens, HEADS, VALUE_DIM), -gates[0], gates[1]]
        self.tail, self.state = cases.draw(rng, 3, WIDTH - 1, CHANNELS), ops.delta_state(3, HEADS, KEY_DIM, VALUE_DIM)
        self.drafts = cases.draw(rng, 3, LENGTH, ROW)

    def feed(self, slot: int, tokens: int, commit: int | None = None, wrong: int = 0) -> tuple[np.ndarray, ...]:
        """A pass over the next tokens, the last `wrong` of which are not the sequence's own."""
        u, *rows = (x[self.length : self.length + tokens].copy() for x in (self.u, *self.rows))
        for x in (u, *rows):
            x[tokens - wrong :] *= np.float32(0.7)
        seg = cases.ragged([tokens], [self.length], [slot])
        if commit is not None:
            seg = replace(seg, window=ints(2 - slot), accepted=ints(self.accepted), commit=ints(commit))
        c = self.ops.causal_conv1d(u, self.w, seg, self.tail, self.drafts)
        o = self.ops.gated_delta_rule(*rows, seg, self.state, self.drafts)
        self.length, self.accepted = self.length + tokens - wrong, tokens - wrong - (commit or 0)
        return c[: tokens - wrong], o[: tokens - wrong]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def close(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], exact: bool) -> bool:
    return same_bits(a, b) if exact else all(np.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("isa", EACH)
@given(st.integers(0, 2**32 - 1), passes)
@settings(max_examples=25)
def test_accepted_drafts_leave_what_plain_decoding_leaves(isa: str, seed: int, passes: list[tuple[int, ...]]) -> None:
    rng, ops = np.random.default_rng(seed), EACH[isa]
    tokens = sum(certain + accepted for certain, _, accepted in passes) + LENGTH + 1
    mine, plain = (Sequence(ops, np.random.default_rng(seed), tokens) for _ in range(2))
    slot, exact = int(rng.integers(3)), isa != "reference"
    for certain, tried, accepted in passes:
        wrong = max(0, tried - accepted)
        got = mine.feed(slot, certain + tried, certain, wrong)
        want = [plain.feed(slot, 1) for _ in range(len(got[0]))]
        if want:
            assert close(got, tuple(np.concatenate(x) for x in zip(*want, strict=True)), exact)
    mine.feed(slot, 0, 0)  # nothing but what was accepted
    if mine.length:
        assert close((mine.tail[slot], mine.state[slot]), (plain.tail[slot], plain.state[slot]), exact)


@pytest.mark.parametrize("isa", EACH)
def test_other_slots_are_left_alone(isa: str) -> None:
    mine = Sequence(EACH[isa], np.random.default_rng(0), 20)
    before = [x.copy() for x in (mine.tail, mine.state, mine.drafts)]
    for tokens, commit, wrong in ((5, 1, 1), (0, 0, 0), (4, 0, 4), (3, 3, 0)):
        mine.feed(1, tokens, commit, wrong)
    for old, new in zip(before, (mine.tail, mine.state, mine.drafts), strict=True):
        assert same_bits([old[::2]], [new[::2]])  # slot 1 has window 1
        assert not same_bits([old[1]], [new[1]])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 5]), st.sampled_from([1, LENGTH, 32]))
@settings(max_examples=40)
def test_any_runs_are_those_of_the_definition(seed: int, width: int, length: int) -> None:
    """Everything that is written, on every instruction set: outputs, tails, states, windows, what is left alone."""
    rng = np.random.default_rng(seed)
    seg = cases.tried(rng, length)
    row = CHANNELS + 2 * 19 + HEADS * (53 + 2)
    u, w, *rows = (
        cases.draw(rng, seg.tokens, CHANNELS),
        cases.draw(rng, CHANNELS, width),
        *cases.delta_inputs(rng, seg.tokens),
    )
    tail, state = cases.draw(rng, 5, width - 1, CHANNELS), cases.draw(rng, 5, HEADS, 53, 19)
    drafts = cases.draw(rng, 4, length, row)
    drafts[..., CHANNELS:][..., : 2 * 19] *= 0.2  # keys are of length 1, or a state grows
    drafts[..., -2 * HEADS :] = rng.random((4, length, 2 * HEADS), np.float32)
    found = {}
    for isa, ops in EACH.items():
        pools = tail.copy(), cases.state_of(ops, state), drafts.copy()
        c, o = ops.causal_conv1d(u, w, seg, pools[0], pools[2]), ops.gated_delta_rule(*rows, seg, *pools[1:])
        found[isa] = c, o, pools[0], cases.plain_state(ops, pools[1], 53), pools[2]
    want = found.pop("reference")
    for got in found.values():
        assert close(got, want, exact=False)
        assert same_bits(got, found["scalar"])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_company_and_threads_change_nothing(threads: int) -> None:
    """Three runs, one of them with drafts to take, one that only tries, one without a state."""
    rng, ops = np.random.default_rng(1), native.OpSet(threads=threads)
    lengths, starts, slots = [3, 6, 5], [40, 9, 0], [2, 0, -1]
    seg = cases.ragged(lengths, starts, slots)
    seg = replace(seg, window=ints(0, 1, -1), accepted=ints(4, 0, 0), commit=ints(1, 0, 5))
    inputs, w = [cases.draw(rng, 14, CHANNELS), *cases.delta_inputs(rng, 14, HEADS)], cases.draw(rng, CHANNELS, WIDTH)
    row = CHANNELS + 2 * 19 + HEADS * (53 + 2)
    pools = cases.draw(rng, 3, WIDTH - 1, CHANNELS), cases.draw(rng, 3, HEADS, 4, 19, 16), cases.draw(rng, 3, 7, row)

    def run(seg: Segments, rows: slice, tail: Any, state: Any, drafts: Any) -> list[np.ndarray]:
        u, *rest = (np.ascontiguousarray(x[rows]) for x in inputs)
        return [ops.causal_conv1d(u, w, seg, tail, drafts), ops.gated_delta_rule(*rest, seg, state, drafts)]

    together, apart = ([x.copy() for x in pools] for _ in range(2))
    got, alone = run(seg, slice(None), *together), []
    for s in range(3):
        one = cases.ragged([lengths[s]], [starts[s]], [slots[s]])
        one = replace(one, **{name: getattr(seg, name)[s : s + 1] for name in ("window", "accepted", "commit")})
        alone.append(run(one, slice(seg.offset[s], seg.offset[s + 1]), *apart))
    assert same_bits(got, [np.concatenate(x) for x in zip(*alone, strict=True)])
    assert same_bits(together, apart)


SEG = replace(cases.ragged([3, 5], [0, 4], [1, 0]), window=ints(0, 2), accepted=ints(0, 0), commit=ints(3, 5))
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "more accepted than there are": (
        {"accepted": ints(0, 8)},
        r"accepted\[1\] is 8, expected 0 to 4: the run has room for 7 drafts",
    ),
    "accepted before the first token": ({"accepted": ints(1, 0)}, r"accepted\[0\] is 1, expected 0 to 0"),
    "a negative count": ({"accepted": ints(0, -1)}, r"accepted\[1\] is -1, expected 0 to 4"),
    "a negative start of what is certain": ({"commit": ints(3, -3)}, r"commit\[1\] is -3, expected 0 to 5"),
    "more left than there are rows": (
        {"offset": ints(0, 0, 8), "commit": ints(0, 0)},
        r"commit\[1\] is 0, expected 1 to 8: the run has room for 7 drafts",
    ),
    "more than the run": ({"commit": ints(4, 5)}, r"commit\[0\] is 4, expected 0 to 3"),
    "a count for one run of two": ({"commit": ints(3)}, r"commit is \(1,\), expected \(S,\) = \(2,\)"),
    "no window": (
        {"window": ints(-1, 0), "commit": ints(2, 5)},
        r"commit\[0\] is 2, expected 3 to 3: the run has room for 0 drafts",
    ),
    "a window twice": ({"window": ints(1, 1)}, "window holds 1 twice; two runs cannot share one state"),
    "a window that is not there": (
        {"window": ints(0, 3)},
        r"window\[1\] is 3, expected -1 or a row of the pool: -1 to 2",
    ),
    "no slot": (
        {"slot": ints(-1, 0), "commit": ints(2, 5)},
        r"commit\[0\] is 2, expected 3 to 3: the run has room for 0 drafts",
    ),
}


def pool_of(op: str, rng: np.random.Generator) -> np.ndarray:
    """What the operation remembers of two slots."""
    return (
        cases.draw(rng, 2, WIDTH - 1, CHANNELS) if op == "causal_conv1d" else cases.draw(rng, 2, HEADS, 2, KEY_DIM, 16)
    )


def call(op: str, seg: Segments, pool: Any, drafts: Any) -> None:
    rng, ops = np.random.default_rng(0), EACH["scalar"]
    if op == "causal_conv1d":
        ops.causal_conv1d(cases.draw(rng, 8, CHANNELS), cases.draw(rng, CHANNELS, WIDTH), seg, pool, drafts)
    else:
        k, v, gate = (cases.draw(rng, 8, *shape) for shape in ((KEYS, KEY_DIM), (HEADS, VALUE_DIM), (HEADS,)))
        ops.gated_delta_rule(k, k, v, gate, gate, seg, pool, drafts)


OPERATIONS = pytest.mark.parametrize("op", ["causal_conv1d", "gated_delta_rule"])


@OPERATIONS
@pytest.mark.parametrize("name", BAD)
def test_counts_that_cannot_be(name: str, op: str) -> None:
    (change, sentence), rng = BAD[name], np.random.default_rng(0)
    arrays = pool_of(op, rng), cases.draw(rng, 3, LENGTH, ROW)
    before = [x.copy() for x in arrays]
    call(op, SEG, *(x.copy() for x in arrays))
    with pytest.raises(ValueError, match=f"{op}: {sentence}"):
        call(op, replace(SEG, **change), *arrays)
    assert same_bits(before, arrays)


UNCERTAIN = replace(SEG, commit=ints(1, 1))


@OPERATIONS
@pytest.mark.parametrize(
    ("length", "columns", "sentence"),
    [
        (None, None, r"commit\[0\] is 1, expected 3 to 3: the run has room for 0 drafts"),
        (33, ROW, "drafts has L = 33 rows, expected at most 32"),
        (7, 36, r"drafts has R = 36 columns, expected at least (37|176)"),
        (1, ROW, r"commit\[0\] is 1, expected 2 to 3: the run has room for 1 drafts"),
    ],
)
def test_rows_of_drafts_that_cannot_be(op: str, length: int | None, columns: int, sentence: str) -> None:
    rng = np.random.default_rng(0)
    drafts = None if length is None else cases.draw(rng, 3, length, columns)
    with pytest.raises(ValueError, match=f"{op}: {sentence}"):
        call(op, UNCERTAIN, pool_of(op, rng), drafts)


@OPERATIONS
def test_as_many_as_there_can_be(op: str) -> None:
    """All 32 tried, then all accepted, with as many again: the last row of the last window."""
    rng = np.random.default_rng(0)
    pool, drafts = pool_of(op, rng), cases.draw(rng, 3, 32, ROW)
    for accepted, start in ((0, 32), (32, 64)):
        seg = replace(
            cases.ragged([0, 8], [9, start], [1, 0]), window=ints(-1, 2), accepted=ints(0, accepted), commit=ints(0, 0)
        )
        before = drafts.copy()
        call(op, seg, pool, drafts)
        assert same_bits([drafts[:2], drafts[2, 8:]], [before[:2], before[2, 8:]])
        assert np.isfinite(drafts).all()


@OPERATIONS
def test_drafts_need_what_they_wait_for(op: str) -> None:
    with pytest.raises(ValueError, match=f"{op}: drafts wait for a (tail|state); it is needed"):
        call(op, SEG, None, cases.draw(np.random.default_rng(0), 3, LENGTH, ROW))


@OPERATIONS
@pytest.mark.parametrize("name", ["window", "accepted", "commit"])
def test_integers_of_another_kind(op: str, name: str) -> None:
    rng = np.random.default_rng(0)
    drafts, counts = cases.draw(rng, 3, LENGTH, ROW), getattr(SEG, name)
    with pytest.raises(TypeError, match=f"{op}: {name} is int64, expected int32"):
        call(op, replace(SEG, **{name: counts.astype(np.int64)}), pool_of(op, rng), drafts)
    with pytest.raises(ValueError, match=rf"{op}: {name} is \(2, 1\), expected \(S,\) = \(2,\)"):
        call(op, replace(SEG, **{name: counts[:, None]}), pool_of(op, rng), drafts)


@OPERATIONS
def test_drafts_of_another_kind(op: str) -> None:
    rng = np.random.default_rng(0)
    pool, drafts, frozen = pool_of(op, rng), cases.draw(rng, 3, LENGTH, ROW), cases.draw(rng, 3, LENGTH, ROW)
    frozen.flags.writeable = False
    for bad, kind, sentence in (
        (drafts.astype(np.float64), TypeError, "drafts is float64, expected float32"),
        (cases.draw(rng, 3, LENGTH, 2 * ROW)[..., ::2], ValueError, "drafts is not C-contiguous"),
        (drafts[0], ValueError, r"drafts is \(7, 213\), expected \(windows, L, R\)"),
        (frozen, TypeError, "incompatible function arguments"),
    ):
        with pytest.raises(kind, match=sentence):
            call(op, SEG, pool, bad)


def test_torch_refuses() -> None:
    ops = pytest.importorskip("ingot.ops.autograd").OpSet()
    with pytest.raises(ValueError, match="the torch op set keeps none"):
        ops.segments(replace(SEG, commit=ints(1, 1)))
    with pytest.raises(ValueError, match="use the native op set to speculate"):
        ops.delta_drafts(1, 1, 1, 1, 1, 1)
