"""Drafts: what a pass of some rows costs beside one of a single row, and what prompt lookup gains.

`python -m bench.drafts MODEL --weights q4` prints a table of the first; `--say TEXT` answers a user's message, and
`--alphabet N` lets the model draw from N ids alone (1: every draft is right; 2: about half; 50: hardly any), so that a
model with random weights has something to repeat. Each is answered without drafts, with all there are ("lookup") and
where they pay ("auto"), in turns; the answers must be the same. Ratios are medians of pairs, so that a busy machine
meets all alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import ingot
from ingot.engine import Request, SamplingParams
from ingot.engine.scheduler import Part
from ingot.engine.speculate import MOST_DRAFTS

ROWS = (1, 2, 3, 4, 5, 6, 8, 12, MOST_DRAFTS + 1)


def costs(model: Any, context: int, repeat: int) -> dict[tuple[int, int], float]:
    """Median seconds of a pass by (rows, drafts that were accepted before), after `context` tokens."""
    engine, states = model.engine, model.engine.states
    ids = (np.arange(context + MOST_DRAFTS + 1) * 7919 % engine.vocabulary).astype(np.int32)
    sequence = states.open()
    for first in range(0, context, 256):
        engine.forward([Part(sequence, ids[first : min(first + 256, context)])], np.zeros(1, np.int64))
    wanted = [(rows, 0) for rows in ROWS] + [(rows, rows - 1) for rows in ROWS[1:]]
    seconds: dict[tuple[int, int], list[float]] = {each: [] for each in wanted}
    for _ in range(repeat):
        for rows, accepted in wanted:
            sequence.length, sequence.accepted = context, accepted if sequence.window >= 0 else 0
            part = Part(sequence, ids[context:][:rows], tried=rows - 1)
            began = time.perf_counter()
            engine.forward([part], np.arange(rows))
            seconds[rows, accepted].append(time.perf_counter() - began)
    states.close(sequence)
    return {each: statistics.median(found) for each, found in seconds.items()}


def answered(model: Any, request: Request, mode: str) -> tuple[list[int], float, int]:
    """The answer's ids, its seconds after the first token, and its passes."""
    model.engine.speculate = mode
    scheduler, said, passes = model.engine.scheduler(1), [], 0
    scheduler.add(request)
    while not said:
        said = [token.id for token in scheduler.step()]
    began = time.perf_counter()
    while scheduler.unfinished:
        said += [token.id for token in scheduler.step()]
        passes += 1
    return said, time.perf_counter() - began, passes


def gains(model: Any, name: str, request: Request, repeat: int) -> None:
    """Print what drafts gain in an answer."""
    found: dict[str, list[tuple[list[int], float, int]]] = {mode: [] for mode in ("off", "lookup", "auto")}
    for _ in range(repeat):
        for mode, runs in found.items():
            runs.append(answered(model, request, mode))
    assert len({tuple(said) for runs in found.values() for said, _, _ in runs}) == 1, "answers differ"
    length = len(found["off"][0][0]) - 1
    print(f"{name}: {len(request.ids)} tokens, answer {length + 1}")
    for mode, runs in found.items():
        gain = statistics.median(off / each for (_, off, _), (_, each, _) in zip(found["off"], runs, strict=True))
        passes = statistics.median(passes for _, _, passes in runs)
        print(f"  {mode:7s} {gain:5.2f} x, {length / max(1, passes):5.2f} tokens a pass")


def requests(model: Any, args: argparse.Namespace) -> Iterator[tuple[str, Request]]:
    """What is answered."""
    for text in args.say:
        ids = model.encode([{"role": "user", "content": text}], thinking=args.think).ids
        sampling = SamplingParams(temperature=0)
        yield repr(text[:60]), Request(ids, None, sampling, args.tokens, model.stop_ids, cache=False)
    for count in args.alphabet:
        ids = np.random.default_rng(0).integers(0, model.engine.vocabulary, 200)
        bias = dict.fromkeys(range(1000, 1000 + count), 100.0)
        sampling = SamplingParams(temperature=1, seed=0, logit_bias=bias)
        yield f"{count} ids", Request(ids, None, sampling, args.tokens, cache=False)


def main() -> None:
    """Load, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="a directory or hub id (default: the nugget)")
    parser.add_argument("--weights", choices=("f32", "bf16", "q8", "q4"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--context", type=int, default=500, help="tokens before the passes that are timed")
    parser.add_argument("--repeat", type=int, default=25, help="passes of each kind; 0: none are timed")
    parser.add_argument("--tokens", type=int, default=200, help="of an answer")
    parser.add_argument("--pairs", type=int, default=5, help="times each answer is made")
    parser.add_argument("--say", action="append", default=[], metavar="TEXT")
    parser.add_argument("--think", action="store_true")
    parser.add_argument("--alphabet", type=int, action="append", default=[], metavar="N")
    args = parser.parse_args()
    model = ingot.load(args.model, weights=args.weights, threads=args.threads, backend="native", speculate="lookup")
    if args.repeat:
        found = costs(model, args.context, args.repeat)
        print("rows    seconds  / one row   with all accepted before")
        for rows in ROWS:
            one, taking = found[rows, 0] / found[1, 0], found[rows, rows - 1] / found[1, 0]
            print(f"{rows:4d} {found[rows, 0] * 1e3:7.2f} ms   {one:5.2f}       {taking:5.2f}")
    for name, request in requests(model, args):
        gains(model, name, request, args.pairs)


if __name__ == "__main__":
    main()
