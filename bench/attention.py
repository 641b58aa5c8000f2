"""Attention alone at official shapes: decoding beside the bytes it reads, prefill beside the operations it does.

`python -m bench.attention [--kv bf16] [--threads 2] [--isa NAME]` prints a line for each depth. Keys lie in as many
pools as make CACHE bytes, so that decoding reads memory, as in a model whose weights pass between two layers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from ingot.ops.native import OpSet
from ingot.ops.segments import PAGE, Segments

HEADS, KV_HEADS, SIZE = 8, 2, 256  # 0.8B and 2B
SLICE = 256  # tokens of a prefill pass
CACHE = 400 * 2**20  # bytes, above every cache of the machine measured on
DEPTHS = (64, 1024, 4096, 32768)


def one_run(tokens: int, start: int, page_count: int) -> Segments:
    """A pass of `tokens` tokens behind `start`."""
    integers = np.array([0, tokens], np.int32), np.array([start], np.int32), np.zeros((3, tokens), np.int32)
    return Segments(*integers, np.zeros(1, np.int32), np.arange(page_count, dtype=np.int32)[None])


def seconds(calls: list[Callable[[], object]], least: float = 0.3) -> float:
    """Median seconds of one call, calls made in turn for `least` seconds."""
    times: list[float] = []
    while sum(times) < least or len(times) < 5:
        for call in calls:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(ops: OpSet, kv: str, depth: int, tokens: int) -> tuple[float, int]:
    """(seconds, bytes of keys and values read) of a pass of `tokens` tokens that ends at `depth` keys."""
    rng, page_count = np.random.default_rng(0), -(-depth // PAGE)
    q, k, v = (rng.standard_normal((tokens, heads, SIZE), np.float32) for heads in (HEADS, KV_HEADS, KV_HEADS))
    first = ops.kv_pool(page_count, KV_HEADS, SIZE, kv)
    stored = rng.standard_normal((2, page_count * PAGE, KV_HEADS, SIZE), np.float32)
    fill = one_run(len(stored[0]), 0, page_count)
    ops.attention(np.zeros((len(stored[0]), KV_HEADS, SIZE), np.float32)[:, :KV_HEADS], *stored, fill, first)
    size = sum(pool.nbytes for pool in first)
    count = max(1, CACHE // size) if tokens == 1 and depth > PAGE else 1
    pools = [first] + [tuple(pool.copy() for pool in first) for _ in range(count - 1)]
    run = one_run(tokens, depth - tokens, page_count)
    return seconds([lambda pair=pair: ops.attention(q, k, v, run, pair) for pair in pools]), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kv", nargs="+", default=["bf16", "q8", "f32"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--isa")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    args = parser.parse_args()
    ops = OpSet(args.threads, args.isa)
    print(f"{ops.isa}, {ops.threads} threads, H {HEADS}, G {KV_HEADS}, E {SIZE}")
    for kv in args.kv:
        for depth in args.depths:
            spent, size = measure(ops, kv, depth, 1)
            print(f"{kv:5} decode  {depth:6} keys  {spent * 1e6:9.0f} us  {size / spent / 1e9:7.1f} GB/s", flush=True)
            if depth >= SLICE:
                spent, _ = measure(ops, kv, depth, SLICE)
                products = 4 * HEADS * SIZE * sum(range(depth - SLICE + 1, depth + 1))
                rate = products / spent / 1e9
                print(f"{kv:5} prefill {depth:6} keys  {spent * 1e6:9.0f} us  {rate:7.1f} GFLOP/s, {SLICE} tokens")


if __name__ == "__main__":
    main()
