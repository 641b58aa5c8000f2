"""The kernels that are no matmuls, one line each: microseconds at the shapes of 0.8B, the limit, and the ratio.

`python -m bench.kernels [NAME ...]`; `--json` prints JSON lines. The limit is the slower of memory and arithmetic:
bytes that must move over the bandwidth of where they lie, vector operations over what the fp32 units do, both measured
in the same minute (bench.limits). The best of many calls counts, so a busy machine lengthens only the wait.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench import limits
from ingot.ops.native import OpSet
from ingot.ops.segments import Segments

# 0.8B: hidden, intermediate, vocabulary; delta net heads, dim, conv channels, layers; attention heads, KV heads, dim
D, F, Z, H, K, C, LAYERS, Q, G, E = 1024, 3584, 248_320, 16, 128, 6144, 18, 8, 2, 256
# Operations of one lane on the two vector ports, counted in kernels/functions.h; the division runs beside them.
SIGMOID, SILU = 30, 31


@dataclass
class Case:
    """One call, and what it cannot do without: bytes, and operations of one lane."""

    name: str
    tokens: int
    call: Callable[[], Any]
    bytes: float
    operations: float
    from_memory: bool = False  # more bytes than the caches hold


def one_run(tokens: int, slot: int = 0) -> Segments:
    """A pass over one sequence that goes on."""
    zero = np.zeros((1, 0), np.int32)
    arrays = (np.array(x, np.int32) for x in ([0, tokens], [tokens], np.tile(np.arange(tokens), (3, 1)), [slot]))
    return Segments(*arrays, zero)


def row_cases(ops: OpSet, tokens: int, draw: Callable[..., np.ndarray]) -> Iterator[Case]:
    """Norms, gates, rotary."""
    x, w, gate = draw(tokens, D), draw(D), draw(tokens, F)
    yield Case("rms_norm", tokens, lambda: ops.rms_norm(x, w, 1e-6, True), 8 * x.size, 5 * x.size)
    yield Case("silu_mul", tokens, lambda: ops.silu_mul(gate, gate), 8 * gate.size, (SILU + 1) * gate.size)
    q, k = draw(tokens, Q, E), draw(tokens, G, E)
    yield Case("sigmoid_mul", tokens, lambda: ops.sigmoid_mul(q, q), 8 * q.size, (SIGMOID + 1) * q.size)
    inv_freq, axis, position = draw(32), np.zeros(32, np.int32), one_run(tokens).position
    turns = ops.rotary(position, inv_freq, axis)
    yield Case("rotary", tokens, lambda: ops.rotary(position, inv_freq, axis), 8 * 32 * tokens, 30 * 32 * tokens)
    yield Case("rope", tokens, lambda: ops.rope(q, k, turns), 8 * (q.size + k.size), 4 * 32 * (Q + G) * tokens)


def delta_cases(ops: OpSet, tokens: int, draw: Callable[..., np.ndarray]) -> Iterator[Case]:
    """The convolution, the delta rule, and all of a layer between its matrices. A decoding step reads every layer's
    state from memory; a prompt reads it once."""
    u, w = draw(tokens, C), draw(C, 4)
    q, k = ops.l2_norm(draw(tokens, H, K), K**-0.5), ops.l2_norm(draw(tokens, H, K), 1.0)
    v, decay, beta = draw(tokens, H, K), -np.abs(draw(tokens, H)), np.abs(draw(tokens, H))
    layers = 8 * LAYERS if tokens == 1 else 1
    pools = [(ops.conv_tail(1, 4, C), ops.delta_state(1, H, K, K)) for _ in range(layers)]
    for tail, state in pools:
        tail[:], state[:] = 0.1, 0.01  # pages that nobody wrote are one page
    turn, seg = iter(lambda: pools[int(time.perf_counter_ns()) % layers], None), one_run(tokens)
    states, steps = 8 * H * K * K, 4 * H * K * K * tokens
    yield Case("conv1d", tokens, lambda: ops.causal_conv1d(u, w, seg, pools[0][0]), 8 * u.size, (4 + SILU) * u.size)
    rule = Case("delta_rule", tokens, lambda: ops.gated_delta_rule(q, k, v, decay, beta, seg, next(turn)[1]), 0, steps)
    rule.bytes, rule.from_memory = states + 16 * v.size, tokens == 1
    yield rule
    text = SimpleNamespace(linear_key_head_dim=K, linear_value_head_dim=K, rms_norm_eps=1e-6)
    leaves = dict.fromkeys(("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"), lambda x: x)
    node = SimpleNamespace(config=SimpleNamespace(text=text), prepared=None, **leaves)
    node.conv1d, node.norm = SimpleNamespace(weight=w[:, None]), SimpleNamespace(weight=draw(K))
    node.A_log, node.dt_bias = draw(H), draw(H)
    z = draw(tokens, H * K)
    node.in_proj_qkv, node.in_proj_z, node.in_proj_b, node.in_proj_a = (lambda _, y=y: y for y in (u, z, beta, decay))
    operations = steps + (4 + SILU) * u.size + (SILU + 6) * z.size
    mixer = Case("delta_mixer", tokens, lambda: ops.delta_mixer(node, u, seg, next(turn)), 0, operations)
    mixer.bytes, mixer.from_memory = states + 4 * (u.size + 2 * z.size), tokens == 1
    yield mixer


def choice_cases(ops: OpSet, draw: Callable[..., np.ndarray]) -> Iterator[Case]:
    """One token of the vocabulary."""
    x = 2.5 * draw(Z)
    weigh = 2 * 40 * Z  # double: half the lanes
    yield Case("choose, greedy", 1, lambda: ops.choose(x, 0, 0, 1, 0, 0.3), 4 * Z, 2 * Z)
    yield Case("choose, top_k 20, top_p 0.95", 1, lambda: ops.choose(x, 0.8, 20, 0.95, 0, 0.3), 4 * Z, 2 * Z)
    yield Case("choose, all", 1, lambda: ops.choose(x, 1, 0, 1, 0, 0.3), 4 * Z, weigh)
    yield Case("choose, top_p 0.95", 1, lambda: ops.choose(x, 1, 0, 0.95, 0, 0.3), 4 * Z, weigh)
    yield Case("rank, 20 best", 1, lambda: ops.rank(x, 20), 4 * Z, weigh)


def cases(ops: OpSet) -> Iterator[Case]:
    """All of them."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    for tokens in (1, 256):
        yield from row_cases(ops, tokens, draw)
        yield from delta_cases(ops, tokens, draw)
    yield from choice_cases(ops, draw)
    least = draw(1, 16)
    yield Case("a call", 1, lambda: ops.rms_norm(least, least[0], 1e-6, True), 128, 80)


def microseconds(call: Callable[[], Any], budget_s: float = 0.3) -> tuple[float, float]:
    """The best and the median of the calls that fit into the budget."""
    call()
    taken, end = [], time.perf_counter() + budget_s
    while time.perf_counter() < end or len(taken) < 5:
        begin = time.perf_counter()
        call()
        taken.append(1e6 * (time.perf_counter() - begin))
    return min(taken), float(np.median(taken))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="only those whose name begins so")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--isa")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    ops = OpSet(args.threads, args.isa)
    lanes_s = limits.lines("peaks", ops.threads)[0]["ops_s"] / 2  # a fused multiply-add counts twice there
    memory, caches = limits.read_rate(ops.threads), limits.read_rate(ops.threads, 1)
    if not args.json:
        print(
            f"{'':<30}{'tokens':>6}{'us':>10}{'median':>10}{'limit':>10}{'times':>7}   {ops.isa}, {ops.threads} threads"
        )
    for case in cases(ops):
        if args.names and not any(case.name.startswith(name) for name in args.names):
            continue
        best, median = microseconds(case.call)
        limit = 1e6 * max(case.bytes / (memory if case.from_memory else caches), case.operations / lanes_s)
        row = {"kernel": case.name, "tokens": case.tokens, "us": best, "median_us": median, "limit_us": limit}
        if args.json:
            print(json.dumps({**row, "isa": ops.isa, "threads": ops.threads}))
        else:
            print(f"{case.name:<30}{case.tokens:>6}{best:>10.1f}{median:>10.1f}{limit:>10.1f}{best / limit:>7.1f}")


if __name__ == "__main__":
    main()
