"""The official 0.8B configuration with random bf16 weights: loads, generates, within the memory that is announced."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ingot.spec import official
from ingot.store import write_random_checkpoint

pytestmark = pytest.mark.slow

MEASURE = """
import json, os, resource, sys
import ingot
from ingot.engine import STEP_TOKENS
from ingot.engine.engine import Engine
from ingot.spec.cost import memory
import ingot.loading, ingot.ops.native, ingot.prompt

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()

before = resident()
m = ingot.load(sys.argv[1], backend="native", threads=2, cache=sys.argv[2] if len(sys.argv) > 2 else False)
loaded = resident()
ids = [(i * 7919) % 240_000 for i in range(1000)]
out = m.generate(ids, max_tokens=24, temperature=0)
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
need = memory(m.config, "bf16", STEP_TOKENS, kv="bf16")
tokens = -(-1024 // 64) * 64
u = out.usage
print(json.dumps(dict(
    before=before, loaded=loaded, peak=peak, weights=need.weights, mapped=need.mapped, state=need.state,
    kv=need.kv_token * tokens, workspace=need.workspace, tokens=len(out.ids), prefill_s=u.prefill_s,
    decode_tokens_per_second=u.tokens_per_second)))
"""


def test_08b_generates_in_the_announced_memory(tmp_path):
    pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")
    path = write_random_checkpoint(tmp_path / "0.8b", official("0.8b"), mtp=True, vision=False)
    for place in [], [str(tmp_path / "cache")], [str(tmp_path / "cache")]:  # in memory, packed into a file, mapped
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path), *place], capture_output=True, check=True)
        seen = json.loads(done.stdout)
        print(seen)
        assert seen["tokens"] == 24
        # a touched row of the mapped embedding can bring 2 MB with it, which the system may take back at any time
        announced = seen["weights"] + seen["mapped"] + seen["state"] + seen["kv"] + seen["workspace"]
        assert seen["peak"] - seen["before"] <= announced
