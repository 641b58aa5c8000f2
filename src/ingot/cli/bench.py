"""`ingot bench`: how fast a model is here, each figure beside the bound that this machine sets."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.cli import target
from ingot.cli.failure import Parser, UsageError
from ingot.cli.progress import Progress
from ingot.cli.target import Target
from ingot.cli.terminal import Terminal

if TYPE_CHECKING:
    from ingot.spec.cost import Memory
    from ingot.spec.roof import Limits

MIB = 2**20
PREFILL, DEPTHS, ROWS = (64, 512, 4096), (64, 1024, 4096), (1, 2, 3, 4, 8, 16)
QUICK_PREFILL, QUICK_DEPTHS = (512,), (64,)
ROWS_AT = 64  # the depth of the steps of several rows
STEPS = 24
EPILOG = """\
The bound of a decoding step is the bytes it must read by the rate at which memory of that size is read here; that of
prefill the operations by the rate of the kernels on matrices in the cache, and the delta rule's in fp32. --limits takes
the hardware's own rates from the JSON line of `python -m bench.limits` instead.

examples:
  ingot bench                                     the bundled nugget
  ingot bench models/mine --weights q4 --quick
  ingot bench --config 0.8B --random --weights q8   an official shape with random weights: speed only"""


@dataclass(frozen=True)
class Figure:
    """One measurement: tokens a second, and the most that this machine allows."""

    what: str
    tokens: int
    rows: int
    seconds: float
    tokens_s: float
    roof_tokens_s: float

    @property
    def share(self) -> float:
        return self.tokens_s / self.roof_tokens_s


def parser() -> Parser:
    """The options of `ingot bench`."""
    made = Parser("bench", description="How fast a model is here, beside what this machine allows.", epilog=EPILOG)
    target.add_target(made)
    made.add_argument("--random", action="store_true", help="random weights for --config: speed only")
    made.add_argument("--quick", action="store_true", help="fewer lengths and depths: a minute at most for 0.8B")
    made.add_argument("--limits", metavar="FILE", help="the JSON line of `python -m bench.limits`")
    made.add_argument("--json", action="store_true", help="one JSON object")
    return made


def run(args: argparse.Namespace) -> int:
    """Load, measure, show."""
    if (args.config is not None) != args.random:
        raise UsageError("--config and --random go together: a configuration has no weights of its own")
    hardware = _read_limits(args.limits) if args.limits else None
    what = target.find(args)
    begin = time.perf_counter()
    with (
        Progress(Terminal(sys.stderr), f"measuring {what.name}"),
        target.loaded(what, args, args.weights, True) as model,
    ):
        record = _measure(what, model, args, hardware)
        record["load_s"] = None if args.random else round(record.pop("loaded") - begin, 3)
    _show(Terminal(sys.stdout), record, args.json)
    return 0


def _measure(what: Target, model: Any, args: argparse.Namespace, hardware: dict[str, Any] | None) -> dict[str, Any]:
    from ingot.engine import STEP_TOKENS
    from ingot.spec.cost import memory
    from ingot.spec.roof import step_work
    from ingot.speed import machine_limits

    loaded = time.perf_counter()
    fmt = args.weights or what.stored
    kv = args.kv or ("f32" if fmt == "f32" else "bf16")
    cost, ops = memory(what.config, fmt, STEP_TOKENS, kv=kv), model.engine.ops
    threads = getattr(ops, "threads", 1)
    if hardware is not None:
        limits = _limits_of(hardware, fmt, threads)
    times = list(_times(model.engine, args.quick))
    peak = _peak()  # before the limits, which take memory of their own
    if hardware is None:
        limits = machine_limits(ops, fmt, step_work(what.config, cost, 1, ROWS_AT).bytes)
    figures = [_beside(what, cost, limits, *measured) for measured in times]
    longest = max((f.tokens for f in figures), default=0)
    return {
        "model": what.name,
        "random": what.path is None,
        "weights": fmt,
        "kv": kv,
        "isa": getattr(ops, "isa", "numpy"),
        "threads": threads,
        "limits": {**asdict(limits), "of": "the hardware" if hardware else "Ingot's kernels"},
        "loaded": loaded,
        "peak_bytes": peak,
        "planned_bytes": cost.total(longest),
        "figures": [{**asdict(f), "share": round(f.share, 3)} for f in figures],
    }


def _times(engine: Any, quick: bool) -> Iterator[tuple[str, int, int, float]]:
    """(what, tokens, rows, seconds) of each measurement that the model's context holds."""
    from ingot.speed import prefill_s, step_s

    for tokens in (n for n in (QUICK_PREFILL if quick else PREFILL) if n < engine.context):
        yield "prefill", tokens, tokens, min(prefill_s(engine, tokens) for _ in range(2 if tokens < 4096 else 1))
    passes = [("decode", depth, 1) for depth in (QUICK_DEPTHS if quick else DEPTHS)]
    passes += [("step", ROWS_AT, rows) for rows in ROWS[1:]]
    for name, depth, rows in passes:
        if depth + (STEPS + 2) * rows < engine.context:
            yield name, depth, rows, step_s(engine, depth, rows, STEPS)


def _beside(what: Target, cost: Memory, limits: Limits, name: str, tokens: int, rows: int, seconds: float) -> Figure:
    """A measurement with the bound of its work."""
    from ingot.engine import STEP_TOKENS
    from ingot.spec.roof import prefill_work, step_work

    if name == "prefill":
        work = prefill_work(what.config, cost, tokens, STEP_TOKENS)
    else:
        work = step_work(what.config, cost, rows, tokens)
    return Figure(name, tokens, rows, seconds, rows / seconds, rows / work.seconds(limits))


def _read_limits(path: str) -> dict[str, Any]:
    """The last line of a file that bench.limits printed."""
    try:
        record: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8").splitlines()[-1])
        record["peak_ops_s"], record["read"]
    except (ValueError, IndexError, KeyError, TypeError):
        raise UsageError(f"--limits is {path!r}, whose last line is not the JSON of `python -m bench.limits`") from None
    return record


def _limits_of(record: dict[str, Any], fmt: str, threads: int) -> Limits:
    from ingot.spec.roof import Limits

    if str(threads) not in record["read"]:
        raise UsageError(f"--limits has no figures for {threads} threads; it has {', '.join(record['read'])}")
    peaks = record["peak_ops_s"][str(threads)]
    kind = {"q4": "int8", "q8": "int8", "bf16": "bf16"}.get(fmt, "fp32")
    matrix = max(rate for unit, rate in peaks.items() if unit.startswith((kind, "fp32")))
    return Limits(record["read"][str(threads)]["bytes_s"], matrix, peaks["fp32 fma"])


def _peak() -> int | None:
    """Bytes of the most this process had in memory; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _show(terminal: Terminal, record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.command(json.dumps(record, indent=2) + "\n")
        return
    limits = record["limits"]
    terminal.write(
        f"{record['model']}: {record['weights']} weights, {record['kv']} keys and values; "
        f"{record['isa']}, {record['threads']} thread{'s' * (record['threads'] != 1)}\n"
        f"{limits['of']} read {limits['bytes_s'] / 1e9:.1f} GB/s of this size, and do {limits['matrix_s'] / 1e9:,.0f} "
        f"Gop/s in {record['weights']}, {limits['vector_s'] / 1e9:,.0f} in f32\n"
    )
    if record["load_s"] is not None:
        terminal.write(f"loaded in {record['load_s']:.2f} s\n")
    if record["peak_bytes"]:
        terminal.write(f"peak memory {record['peak_bytes'] / MIB:,.0f} MiB, of it planned {_mib(record)} MiB\n")
    terminal.write(f"\n{'':<28}{'ms':>10}{'tokens/s':>11}{'at most':>11}{'share':>8}\n")
    for figure in record["figures"]:
        terminal.write(
            f"{_name(figure):<28}{1e3 * figure['seconds']:>10,.1f}{figure['tokens_s']:>11,.1f}"
            f"{figure['roof_tokens_s']:>11,.1f}{figure['share']:>8.0%}\n"
        )
    if record["random"]:
        terminal.write("\nrandom weights: speed only\n")


def _mib(record: dict[str, Any]) -> str:
    return f"{record['planned_bytes'] / MIB:,.0f}"


def _name(figure: dict[str, Any]) -> str:
    if figure["what"] == "prefill":
        return f"prefill of {figure['tokens']:,}"
    if figure["what"] == "decode":
        return f"decode behind {figure['tokens']:,}"
    return f"{figure['rows']} rows behind {figure['tokens']:,}"
