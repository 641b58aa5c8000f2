"""A conversation, the end of its process, and its next turn in a new one: with what is on disk, and without.

    python -m bench.restart --size 0.8B --format q4 --tokens 16384 --turns 8

Prints one JSON line: seconds to the first token, the disk's bytes beside those of keys, values and a snapshot a turn,
and how long a token's step takes at most beside the writing. Speed only: the weights are random.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import ingot
from bench.arguments import WORK
from bench.checkpoints import official_shape
from bench.start import forget
from ingot.engine import Engine, Mark, Request, SamplingParams
from ingot.spec.cost import kv_bytes
from ingot.store.record_folder import survey

ANSWER, NEW = 32, 64  # tokens of an answer, and of what is said to it


def main() -> None:
    """Three processes: the conversation, its next turn, and that again with an empty disk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8B")
    parser.add_argument("--format", default="q4")
    parser.add_argument("--kv", default="bf16")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument(
        "--cold-pages", action="store_true", help="drop the files from the page cache before the restart"
    )
    parser.add_argument("--only", choices=("talk", "again", "cold"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    place = WORK / "restart"
    if args.only:
        print(json.dumps(one(args, place)))
        return
    shutil.rmtree(place, ignore_errors=True)
    told: dict[str, Any] = {}
    for part in ("talk", "again", "cold"):
        if part == "again" and args.cold_pages:
            written = [path for path in place.rglob("*") if path.is_file()]
            sync(written)
            forget(written)
        command = [sys.executable, "-m", "bench.restart", *sys.argv[1:], "--only", part]
        told |= json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    told["again / cold"] = round(told["again_s"] / told["cold_s"], 4)
    print(json.dumps({**vars(args), **told}))
    shutil.rmtree(place, ignore_errors=True)


def sync(files: list[Path]) -> None:
    """Have them on the disk: what is not cannot be dropped from the page cache."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def one(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """One process."""
    began = time.perf_counter()
    disk: Any = {} if args.only == "cold" else {"prefix_disk": True}
    model = ingot.load(official_shape(args.size, WORK), weights=args.format, kv=args.kv, cache=place, **disk)
    loaded = round(time.perf_counter() - began, 3)
    if args.only != "talk":
        first, tokens, _, said = turn(model.engine, ids(args)[: args.tokens + NEW])
        return {
            f"{args.only}_s": first,
            f"{args.only}_from_disk": tokens,
            f"{args.only}_load_s": loaded,
            args.only: said,
        }
    turns = [turn(model.engine, ids(args)[: args.tokens * (n + 1) // args.turns]) for n in range(args.turns)]
    journal = model.engine.cache.disk.journal
    journal.flush()
    held = sum(file.nbytes for file in survey(journal.directory))
    least = args.tokens * kv_bytes(model.config, args.kv) + args.turns * model.engine.states.state_bytes
    dropped = journal.counts.dropped + model.engine.cache.disk.lost
    return {
        "turns_s": [first for first, *_ in turns],
        "longest_step_s": max(longest for *_, longest, _ in turns),
        "disk_bytes": held,
        "disk / (keys and values + a state a turn)": round(held / least, 3),
        "dropped": dropped,
    }


def turn(engine: Engine, prompt: np.ndarray) -> tuple[float, int, float, list[int]]:
    """Seconds to the first token, tokens that came from disk, the longest step after it, and the answer."""
    scheduler, began = engine.scheduler(1), time.perf_counter()
    marks = (Mark(len(prompt) - 8, "turn"),)
    scheduler.add(Request(prompt, marks=marks, max_tokens=ANSWER, sampling=SamplingParams(temperature=0)))
    tokens, times = [], [began]
    while scheduler.unfinished:
        tokens += scheduler.step()
        times = [*times, time.perf_counter()] if tokens else times
    scheduler.close()
    reuse = tokens[0].reuse
    assert reuse is not None
    first, longest = times[1] - began, max(np.diff(times[1:]))
    return round(first, 3), reuse.disk, round(float(longest), 3), [token.id for token in tokens[:8]]


def ids(args: argparse.Namespace) -> np.ndarray:
    """What is said by both sides."""
    return np.random.default_rng(0).integers(0, 200_000, args.tokens + NEW)


if __name__ == "__main__":
    main()
