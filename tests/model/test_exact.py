"""One token, one result: on the native op set a logits row has the same bits however it was computed. No tolerance
anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.engine.sequence import StatePool
from ingot.model import build
from ingot.ops import Segments
from ingot.spec import Config
from ingot.spec.formats import FORMATS
from tests.model.small import small_config, weights
from tests.tolerance import KV_OF_SCALE

native = pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")

CONFIG = small_config()
LENGTH = 150  # three attention pages, the last one partly filled
IDS = np.random.default_rng(7).integers(0, CONFIG.text.vocab_size, LENGTH)


def model(fmt: str = "f32", threads: int = 2, isa: str | None = None, config: Config = CONFIG):
    ops = native.OpSet(threads=threads, isa=isa)
    return ops, build(config, ops, weights(), fmt)


def run(ops, root, ids, sizes, config=CONFIG, kv="f32"):
    """All logits of `ids`, fed in pieces of the given sizes through one sequence's state."""
    states = StatePool(ops, config, kv)
    sequence, rows, at = states.open(), [], 0
    for size in sizes:
        seg = states.segments(sequence, None, size)
        rows.append(root(ops, ids[at : at + size], seg, states.pools))
        sequence.length += size
        at += size
    return np.concatenate(rows)


OPS, ROOT = model()
WHOLE = run(OPS, ROOT, IDS, [LENGTH])


def test_every_split_point_gives_the_same_bits():
    for split in range(1, LENGTH):
        assert np.array_equal(run(OPS, ROOT, IDS, [split, LENGTH - split]), WHOLE), split


def test_decode_equals_prefill():
    assert np.array_equal(run(OPS, ROOT, IDS, [1] * LENGTH), WHOLE)


def test_stateless_scoring_equals_prefill():
    assert np.array_equal(ROOT(OPS, IDS, Segments.of_lengths([LENGTH])), WHOLE)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("isa", native.available_isas())
def test_instruction_sets_threads_and_formats(isa, fmt):
    """Other instruction sets and thread counts give the same bits in every weight format."""
    ops, root = model(fmt)
    want = WHOLE if fmt == "f32" else run(ops, root, IDS, [LENGTH])
    for threads in (1, 2, 3):
        ops, root = model(fmt, threads, isa)
        assert np.array_equal(run(ops, root, IDS, [64, 1, 85]), want), (isa, threads)


@pytest.mark.parametrize("kv", ["bf16", "q8"])
def test_keys_in_other_formats_are_as_exact(kv):
    """Splits, decoding, instruction sets and threads, with keys and values that are read as stored."""
    whole = run(OPS, ROOT, IDS, [LENGTH], kv=kv)
    assert not np.array_equal(whole, WHOLE)
    assert np.abs(whole - WHOLE).max() < KV_OF_SCALE * np.abs(WHOLE).max()
    for sizes in ([1] * LENGTH, *([split, LENGTH - split] for split in range(1, LENGTH, 7))):
        assert np.array_equal(run(OPS, ROOT, IDS, sizes, kv=kv), whole), sizes
    for isa in native.available_isas():
        ops, root = model("f32", 3, isa)
        assert np.array_equal(run(ops, root, IDS, [64, 1, 85], kv=kv), whole), isa


@settings(max_examples=40)
@given(st.data())
def test_any_schedule_of_a_ragged_batch_equals_each_alone(data):
    """Sequences of different lengths, advanced by random amounts in random company, with slots and pages dealt at
    random."""
    lengths = data.draw(st.lists(st.integers(1, 100), min_size=1, max_size=4), label="lengths")
    sequences_ids = [np.roll(IDS, 11 * n)[:length] for n, length in enumerate(lengths)]
    states = StatePool(OPS, CONFIG)
    waste = states.open()  # so that slots and pages are not simply 0, 1, 2
    states.reserve(waste, data.draw(st.integers(0, 200), label="waste"))
    sequences = [states.open() for _ in lengths]
    states.close(waste)
    got: list[list[np.ndarray]] = [[] for _ in lengths]
    while any(s.length < n for s, n in zip(sequences, lengths, strict=True)):
        open_runs = [i for i, s in enumerate(sequences) if s.length < lengths[i]]
        chosen = data.draw(st.lists(st.sampled_from(open_runs), min_size=1, unique=True), label="chosen")
        sizes = [data.draw(st.integers(1, lengths[i] - sequences[i].length)) for i in chosen]
        ids = np.concatenate([sequences_ids[i][sequences[i].length :][:n] for i, n in zip(chosen, sizes, strict=True)])
        seg = Segments.joined([states.segments(sequences[i], None, n) for i, n in zip(chosen, sizes, strict=True)])
        logits = ROOT(OPS, ids, seg, states.pools)
        for j, i in enumerate(chosen):
            got[i].append(logits[seg.offset[j] : seg.offset[j + 1]])
            sequences[i].length += sizes[j]
    for rows, ids in zip(got, sequences_ids, strict=True):
        assert np.array_equal(np.concatenate(rows), run(OPS, ROOT, ids, [len(ids)]))


def test_fork_continues_with_the_same_bits_and_leaves_the_original_alone():
    states = StatePool(OPS, CONFIG)
    first = states.open()

    def feed(sequence, ids):
        seg = states.segments(sequence, None, len(ids))
        logits = ROOT(OPS, ids, seg, states.pools)
        sequence.length += len(ids)
        return logits

    feed(first, IDS[:70])
    twin = states.fork(first)
    feed(twin, IDS[::-1][:40])  # the twin goes another way
    assert np.array_equal(feed(first, IDS[70:]), WHOLE[70:])
    again = states.fork(first)
    states.close(first)
    assert again.length == LENGTH


def test_a_new_sequence_ignores_what_its_slot_held():
    states = StatePool(OPS, CONFIG)
    for _ in range(2):
        sequence = states.open()
        seg = states.segments(sequence, None, LENGTH)
        assert np.array_equal(ROOT(OPS, IDS, seg, states.pools), WHOLE)
        for pool in states.pools.layers:
            for array in pool:
                array[:] = np.nan  # what a damaged predecessor would leave behind
        states.close(sequence)
