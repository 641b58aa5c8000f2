"""The measurements that docs/why cites, small enough to run always: a reason that stops being true fails here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from ingot.ops import reference
from ingot.ops.choice import exp
from ingot.spec import official, parse_config
from ingot.spec.cost import memory


def rounded_to_bf16(x):
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize(("log_decay", "least"), [(-1e-1, 0.002), (-1e-3, 0.01)])
def test_a_bf16_state_costs_a_percent_of_the_output(log_decay, least):
    """docs/why/state-fp32.md: heads that decay slowly lose more."""
    rng, heads, key_dim, value_dim, tokens = np.random.default_rng(0), 3, 64, 40, 1200
    exact = np.zeros((heads, value_dim, key_dim), np.float32)
    rounded, errors = exact.copy(), []
    for _ in range(tokens):
        q, k = (reference.l2_norm(rng.standard_normal((heads, key_dim), np.float32), s) for s in (key_dim**-0.5, 1.0))
        v = rng.standard_normal((heads, value_dim), np.float32)
        beta = reference.sigmoid(rng.standard_normal(heads, np.float32))
        decay = np.full(heads, np.exp(log_decay), np.float32)
        o = reference.gated_delta_rule_step(q, k, v, decay, beta, exact)
        worse = reference.gated_delta_rule_step(q, k, v, decay, beta, rounded)
        rounded[:] = rounded_to_bf16(rounded)
        errors.append(np.linalg.norm(worse - o) / np.linalg.norm(o))
    assert least < np.mean(errors[-100:]) < 0.05


def test_a_decay_forgets_what_its_logarithm_knows():
    """docs/why/log-decay-not-decay.md: near 1 and near 0 the fp32 decay has lost what the logarithm holds."""
    slow = np.float32(-1e-5) * (1 + np.random.default_rng(0).random(1000, np.float32))
    assert np.abs(np.log(np.exp(slow)) / slow - 1).max() > 5e-3
    assert np.exp(np.float32(-104)) == 0


def test_the_samplers_exp_has_the_same_bits_without_avx512():
    """docs/why/sampling-is-replayable.md: numpy's exp does not, on a machine that has AVX-512."""
    code = (
        "import numpy as np, sys; from ingot.ops.choice import exp;"
        "sys.stdout.buffer.write(exp(-np.random.default_rng(1).random(5000) * 50).tobytes())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"NPY_DISABLE_CPU_FEATURES": "X86_V4"}, capture_output=True
    )
    x = -np.random.default_rng(1).random(5000) * 50
    assert run.stdout == exp(x).tobytes()
    assert np.allclose(exp(x), np.exp(x), rtol=3e-16, atol=0)


def test_slices_bound_the_workspace_of_a_whole_context():
    """docs/why/prefill-slices.md: 0.8B, all 262,144 tokens in one pass against 256 at a time."""
    config = parse_config(official("0.8b"))
    assert memory(config, "bf16", 262_144).workspace > 20e9
    assert memory(config, "bf16", 256).workspace < 80e6


@pytest.mark.skipif(sys.platform == "win32", reason="files that are mapped cannot be cut there")
def test_a_map_of_a_file_that_was_cut_kills_and_pread_does_not(tmp_path):
    """docs/why/prefix-disk.md: hence states on disk are read, not mapped."""
    code = (
        "import mmap, os, sys; handle = os.open(sys.argv[1], os.O_RDWR); view = mmap.mmap(handle, 1 << 16);"
        "os.truncate(handle, 0); print(os.pread(handle, 9, 0), flush=True); view[5000]"
    )
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 16))
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
    assert run.stdout == b"b''\n"
    assert run.returncode == -signal.SIGBUS
