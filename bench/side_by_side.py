"""Ingot beside llama.cpp: the same random weights of official shape, the same bits in body and head, run in turns.

`python -m bench.side_by_side --size 0.8B --formats q4,q8,bf16 --runs 5` builds what is missing, finds llama.cpp's best
settings for each measurement, then measures in pairs: the machine's read bandwidth, one engine, the other, in changing
order. Each pair is a JSON line in bench/results/side_by_side.jsonl; what is there already for this commit is not
measured again, so an interrupted run goes on. Speed only: the weights are random.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import arguments, limits, llama
from bench.checkpoints import official_shape
from bench.process import Ran, alone, environment, run
from bench.results import append, commit, now, read_records


@dataclass(frozen=True)
class Cell:
    """One measurement of both engines; `unit` "tok/s" is better high, "s" and "MB" are better low."""

    unit: str
    prompt: int
    tokens: int
    theirs: llama.Test
    repeat: int = 1
    tune: tuple[str, ...] = ()
    settings_of: str = ""  # the cell whose settings are taken


CELLS = {
    "decode at 64": Cell(
        "tok/s", 64, 32, llama.Test(tokens=32, depth=64, repeat=3), repeat=3, tune=("--repack", "-fa", "-lm")
    ),
    "prefill 512": Cell("tok/s", 512, 0, llama.Test(prompt=512, repeat=2), repeat=2, tune=("--repack", "-fa", "-ub")),
    "decode at 4096": Cell(
        "tok/s",
        4096,
        32,
        llama.Test(tokens=32, depth=4096, warm_up=False),
        tune=("-fa", "kv"),
        settings_of="decode at 64",
    ),
    "prefill 4096": Cell(
        "tok/s", 4096, 0, llama.Test(prompt=4096, warm_up=False), tune=("-fa",), settings_of="prefill 512"
    ),
    "start": Cell("s", 16, 0, llama.Test(prompt=16, warm_up=False), settings_of="decode at 64"),
    "memory": Cell("MB", 512, 32, llama.Test(prompt=512, tokens=32, warm_up=False), settings_of="decode at 64"),
}


def main() -> None:
    """Prepare, tune, measure what is missing."""
    args = _arguments()
    source = llama.built(args.llama or args.work)
    checkpoint = official_shape(args.size, args.work)
    cells = args.cells.split(",") if args.cells else list(CELLS)
    jobs = [
        (fmt, peer, cell)
        for fmt in args.formats.split(",")
        for peer in llama.PEERS[fmt][: None if args.all_peers else 1]
        for cell in cells
    ]
    for _, peer, _ in jobs:
        llama.model_file(source, checkpoint, peer)
    tuned = {(peer, cell): _settings(args, source, checkpoint, peer, cell) for _, peer, cell in jobs}
    if args.tune_only:
        return
    for turn in range(args.runs):
        for fmt, peer, cell in jobs:
            if _done(args, fmt, peer, cell) <= turn:
                _pair(args, source, checkpoint, fmt, peer, cell, tuned[peer, cell], turn)


def _pair(
    args: argparse.Namespace, source: Path, checkpoint: Path, fmt: str, peer: str, cell: str, settings: dict, turn: int
) -> None:
    """One reading of the limit and one run of each engine; appended to the results."""
    test = CELLS[cell]
    command = [sys.executable, "-m", "bench.ours", checkpoint, "--weights", fmt, "--threads", args.threads]
    command += ["--prompt", test.prompt, "--tokens", test.tokens, "--repeat", test.repeat]
    command += ["--kv", args.kv] if args.kv else []
    command += ["--warm-up"] if test.theirs.warm_up else []
    path = checkpoint / f"{peer}.gguf"
    with alone(args.lock):
        roof = limits.reading(args.threads)
        engines = ["ours", "theirs"] if turn % 2 == 0 else ["theirs", "ours"]
        found: dict[str, tuple[dict[str, Any], Ran]] = {}
        for engine in engines:
            if engine == "theirs":
                found[engine] = llama.bench(source, path, test.theirs, args.threads, settings)
            else:
                ran = run(command, env=environment())
                found[engine] = json.loads(ran.stdout.splitlines()[-1]), ran
    ours, theirs = found["ours"], found["theirs"]
    record = {
        "kind": "side_by_side",
        "time": now(),
        "commit": commit(),
        "machine": limits.machine(),
        "size": args.size,
        "format": fmt,
        "kv": args.kv or "default",
        "peer": peer,
        "cell": cell,
        "turn": turn,
        "order": engines,
        "threads": args.threads,
        "unit": test.unit,
        "ours": _ours(test, *ours),
        "theirs": _theirs(test, *theirs),
        **roof,
        "ours_raw": {**ours[0], **_cost(ours[1])},
        "theirs_raw": {"samples_ts": theirs[0]["samples_ts"], **_cost(theirs[1])},
        "ours_command": " ".join(["python", *map(str, command[1:])]),
        "theirs_command": " ".join(["llama-bench", "-m", path.name, *llama.words(test.theirs, args.threads, settings)]),
        "llama": f"{llama.SDIST} ({theirs[0]['build_commit']})",
    }
    append(args.out, record)
    ratio = record["ours"] / record["theirs"]
    print(
        f"{args.size} {fmt:<5} {peer:<10} {cell:<15} run {turn}: ours {record['ours']:.1f}, theirs "
        f"{record['theirs']:.1f} {test.unit} ({ratio:.2f}), read {roof['read_bytes_s'] / 1e9:.1f} GB/s, "
        f"others {max(ours[1].others, theirs[1].others):.0%}",
        flush=True,
    )


def _ours(cell: Cell, record: dict[str, Any], ran: Ran) -> float:
    if cell.unit == "tok/s":
        return cell.tokens / statistics.median(record["rest_s"]) if cell.tokens else _prefill(cell, record)
    return ran.seconds if cell.unit == "s" else ran.peak / 1e6


def _prefill(cell: Cell, record: dict[str, Any]) -> float:
    return cell.prompt / statistics.median(record["first_s"])


def _theirs(cell: Cell, record: dict[str, Any], ran: Ran) -> float:
    if cell.unit == "tok/s":
        return float(statistics.median(record["samples_ts"]))
    return ran.seconds if cell.unit == "s" else ran.peak / 1e6


def _cost(ran: Ran) -> dict[str, Any]:
    memory = {"peak_mb": ran.peak / 1e6, "anonymous_mb": ran.anonymous / 1e6, "file_mb": ran.file / 1e6}
    return {"process_s": round(ran.seconds, 3), **memory, "others": ran.others}


def _settings(args: argparse.Namespace, source: Path, checkpoint: Path, peer: str, cell: str) -> dict[str, str]:
    """llama.cpp's best settings for the cell: kept in tuned.json beside the checkpoint, found where it has none."""
    path = checkpoint / "tuned.json"
    known: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
    key = f"{peer}, {cell}, {args.threads} threads"
    if key not in known:
        test = CELLS[cell]
        start = _settings(args, source, checkpoint, peer, test.settings_of) if test.settings_of else {}
        known = json.loads(path.read_text()) if path.exists() else {}

        def rate(settings: dict[str, str]) -> float:
            """Of its repetitions the best: what disturbs one must not decide for a setting."""
            with alone(args.lock):
                file = checkpoint / f"{peer}.gguf"
                return float(max(llama.bench(source, file, test.theirs, args.threads, settings)[0]["samples_ts"]))

        known[key] = llama.tuned(rate, test.tune, start)
        path.write_text(json.dumps(known, indent=1))
        print(f"llama.cpp's settings for {args.size} {key}: {known[key]}", flush=True)
    return known[key]


def _done(args: argparse.Namespace, fmt: str, peer: str, cell: str) -> int:
    """How many pairs of this commit the results have."""
    wanted = {"commit": commit(), "size": args.size, "format": fmt, "peer": peer, "cell": cell}
    wanted |= {"threads": args.threads, "kv": args.kv or "default"}
    return sum(all(record.get(k) == v for k, v in wanted.items()) for record in read_records(args.out))


def _arguments() -> argparse.Namespace:
    parser = arguments.parser("side_by_side", __doc__)
    parser.add_argument("--formats", default="q4,q8,bf16", help="of ours; each has its peer's file with equal bits")
    parser.add_argument("--kv", help="our format of keys and values (default: load's)")
    parser.add_argument("--cells", help=f"some of: {', '.join(CELLS)} (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="pairs of each cell")
    parser.add_argument("--all-peers", action="store_true", help="q4 also beside Q4_0 and Q4_K_M as people run them")
    parser.add_argument("--tune-only", action="store_true", help="build, convert, find llama.cpp's settings, stop")
    return parser.parse_args()


if __name__ == "__main__":
    main()
