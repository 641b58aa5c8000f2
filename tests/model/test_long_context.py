"""The end of the context on the official 0.8B shape: pages filled to 261,632 tokens with made-up keys and values, then
real passes behind them. Memory as announced; the same bits however the last tokens are cut."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ingot.spec import official
from ingot.store import write_random_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MEASURE = """
import json, resource, sys, time
import numpy as np
import ingot
from ingot.engine import STEP_TOKENS
from ingot.spec.cost import memory

FILLED, SLICE, DECODED = 261_632, 448, 64
before = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
m = ingot.load(sys.argv[1], weights="q4", kv=sys.argv[2], threads=2)
engine, states = m.engine, m.engine.states
states.check(FILLED + SLICE + DECODED)
sequence = states.open()
states.reserve(sequence, FILLED + SLICE + DECODED)
states.segments(sequence, None, FILLED)  # notes that the pages are written
rng = np.random.default_rng(0)
for i, pool in enumerate(states.pools.layers):
    for array in pool:
        if array.dtype == np.float32 and i in states.pools.linear:
            array[:] = 0.1 * rng.standard_normal(array.shape, np.float32)
        elif array.dtype == np.uint16:  # bf16 of both signs, between 2^-6 and 2
            block = (rng.integers(0x3C80, 0x4000, 1 << 16) | rng.integers(0, 2, 1 << 16) << 15).astype(np.uint16)
            flat = array.reshape(-1)
            for at in range(0, flat.size, block.size):
                part = flat[at : at + block.size]
                part[:] = block[: part.size]
        else:
            raise SystemExit(f"unknown pages {array.dtype}")
kept = [tuple(a.copy() for a in states.pools.layers[i]) for i in states.pools.linear]
ids = rng.integers(0, 240_000, SLICE + DECODED).astype(np.int32)

def passes(cuts):
    for i, saved in zip(states.pools.linear, kept, strict=True):
        for array, copy in zip(states.pools.layers[i], saved, strict=True):
            array[:] = copy
    sequence.length, at, rows, seconds = FILLED, 0, [], []
    for cut in cuts:
        start = time.perf_counter()
        rows.append(engine._run(sequence, ids[at : at + cut], None, np.array([cut - 1])))
        seconds.append(time.perf_counter() - start)
        at += cut
    return np.concatenate(rows[-DECODED:]), seconds

whole, seconds = passes([224, 224] + [1] * DECODED)
other, _ = passes([1, 130, 1, 250, 66] + [1] * DECODED)
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
need = memory(m.config, "q4", STEP_TOKENS, kv=sys.argv[2])
print(json.dumps(dict(same=bool(np.array_equal(whole, other)), finite=bool(np.isfinite(whole).all()),
    taken=peak - before, announced=need.total(FILLED + SLICE + DECODED) + need.mapped + need.state,
    slice_s=sum(seconds[:2]), decode_s=float(np.median(seconds[2:])))))
"""


def test_the_last_tokens_of_the_context(tmp_path):
    pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")
    path = write_random_checkpoint(tmp_path / "0.8b", official("0.8b"), vision=False)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), "bf16"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    print(seen)
    assert seen["same"]
    assert seen["finite"]
    assert seen["taken"] <= seen["announced"]
