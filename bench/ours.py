"""One measured start of Ingot, for bench.side_by_side: `python -m bench.ours MODEL --prompt 512 --tokens 32`.

Prints one JSON line. Tokens are chosen greedily by the same path as a user's request: what is measured includes the
sampler, the checks and Python.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import ingot


def main() -> None:
    """Load, warm up, generate `repeat` times, print."""
    args = _arguments()
    begin = time.perf_counter()
    model = ingot.load(
        args.model,
        weights=args.weights,
        kv=args.kv,
        threads=args.threads,
        backend="native",
        speculate="off",
        prefix_cache=False,
    )
    record: dict[str, Any] = {"load_s": time.perf_counter() - begin}
    if args.warm_up:
        _generate(model, 16, 4)
    runs = [_generate(model, args.prompt, args.tokens) for _ in range(args.repeat)]
    record["first_s"] = [first for first, _ in runs]
    record["rest_s"] = [rest for _, rest in runs]
    ops = model.engine.ops
    print(json.dumps({**record, "isa": ops.isa, "threads": ops.threads, "version": ingot.__version__}))


def _generate(model: Any, prompt: int, tokens: int) -> tuple[float, float]:
    """Seconds to the first token after `prompt` tokens, and for the `tokens` after it."""
    from ingot.engine import Request, SamplingParams

    vocabulary = model.engine.vocabulary
    ids = [(7919 * i + 13) % vocabulary for i in range(prompt)]
    request = Request(ids, sampling=SamplingParams(temperature=0), max_tokens=tokens + 1)
    begin = time.perf_counter()
    stream = model.engine.generate(request)
    next(stream)
    first = time.perf_counter()
    count = sum(1 for _ in stream)
    assert count == tokens
    return first - begin, time.perf_counter() - first


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ours")
    parser.add_argument("model")
    parser.add_argument("--weights")
    parser.add_argument("--kv")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--warm-up", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
