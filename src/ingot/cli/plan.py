"""`ingot plan`: what a model takes of memory in each format, whether it fits here, and how fast it can be."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingot.cli import chat, target
from ingot.cli.failure import FAILED, Parser, UsageError
from ingot.cli.progress import Progress
from ingot.cli.target import Target
from ingot.cli.terminal import Terminal

if TYPE_CHECKING:
    from ingot.spec.cost import Eyes, Memory

MIB = 2**20
CONTEXT = 8192  # what is planned for unless said: a long conversation
PROMPT = 512  # tokens of the prefill whose speed is told
PICTURE = (768, 1024)  # height and width of the picture whose memory is told
EPILOG = """\
weights, state (of one sequence), keys and values at the context, and workspace are what the process will hold; a
quantised model also maps its embedding from the checkpoint, of which only the rows in use are in memory.
The speeds are what this machine's memory and kernels allow at most; --measure runs it.

examples:
  ingot plan                                       the bundled nugget
  ingot plan --config 4B --context 32768           a size that is not here
  ingot plan models/mine --weights q4 --measure

exit codes: 0, 1 when it does not fit, 2 bad input"""


@dataclass(frozen=True)
class Plan:
    """One format's row: bytes, and tokens a second at most (None: not known) and as measured (None: not)."""

    weights: str
    kv: str
    memory: Memory
    context: int
    available: int | None
    longest: int
    eyes: Eyes | None = None
    decode_roof: float | None = None
    prefill_roof: float | None = None
    decode: float | None = None
    prefill: float | None = None

    @property
    def total(self) -> int:
        return self.memory.total(self.context)

    @property
    def fits(self) -> bool:
        return self.available is None or self.total <= self.available


def parser() -> Parser:
    """The options of `ingot plan`."""
    made = Parser(
        "plan", description="What a model takes, whether it fits here, and how fast it can be.", epilog=EPILOG
    )
    target.add_target(made)
    made.add_argument("--context", type=int, metavar="N", help=f"tokens of one sequence (default: {CONTEXT:,})")
    chat.add_yarn(made)
    made.add_argument("--measure", action="store_true", help="run it, with random weights where there are none")
    made.add_argument("--json", action="store_true", help="one JSON object")
    return made


def run(args: argparse.Namespace) -> int:
    """One row for each format asked for; 1 when none fits."""
    what = target.find(args)
    most = what.config.text.context
    context = min(CONTEXT, most) if args.context is None else args.context
    if not 1 <= context <= most:
        from ingot.spec.config import MAX_YARN

        factor = -(-context // most)
        can = 1 < factor <= MAX_YARN and what.config.text.rope_parameters.rope_type == "default"
        longer = f"\nhint: --yarn {factor} makes it longer" if can else ""
        raise UsageError(f"--context is {context}; this model's context is 1 to {most:,} tokens{longer}")
    formats = [args.weights] if args.weights else list(target.WEIGHTS)
    if args.measure and not args.weights:
        formats = [what.stored]
    plans = [_plan(what, fmt, args, context) for fmt in formats]
    if args.measure:
        plans = [_measured(what, plan, args) for plan in plans]
    _show(Terminal(sys.stdout), what, plans, args.json)
    return 0 if any(plan.fits for plan in plans) else FAILED


def _plan(what: Target, fmt: str, args: argparse.Namespace, context: int) -> Plan:
    from ingot.engine import STEP_TOKENS
    from ingot.memory import available
    from ingot.spec.cost import eyes, memory

    kv = args.kv or ("f32" if fmt == "f32" else "bf16")
    cost, free = memory(what.config, fmt, STEP_TOKENS, kv=kv), available()
    most = what.config.text.context
    longest = most if free is None else max(0, min(most, (free - cost.total(0)) // cost.kv_token))
    plan = Plan(fmt, kv, cost, context, free, longest, eyes(what.config, fmt, *PICTURE) if what.sees else None)
    ops = _native(args)
    return plan if ops is None else _bounded(what, plan, ops)


def _native(args: argparse.Namespace) -> Any:
    try:
        from ingot.ops.native import OpSet
    except ImportError:
        return None
    return OpSet(threads=args.threads)


def _bounded(what: Target, plan: Plan, ops: Any) -> Plan:
    """The plan with the speeds that this machine allows."""
    from ingot.engine import STEP_TOKENS
    from ingot.spec.roof import prefill_work, step_work
    from ingot.speed import machine_limits

    step = step_work(what.config, plan.memory, 1, plan.context)
    limits = machine_limits(ops, plan.weights, step.bytes)
    prefill = prefill_work(what.config, plan.memory, PROMPT, STEP_TOKENS)
    return dataclasses.replace(
        plan, decode_roof=1 / step.seconds(limits), prefill_roof=PROMPT / prefill.seconds(limits)
    )


def _measured(what: Target, plan: Plan, args: argparse.Namespace) -> Plan:
    """The plan with the speeds of a run: a prompt, and decoding at the end of the context."""
    from ingot.speed import prefill_s, step_s

    if not plan.fits:
        free = (plan.available or 0) // MIB
        raise ValueError(
            f"{what.name} as {plan.weights} needs {plan.total // MIB:,} MiB, of which {free:,} MiB are available: it "
            "cannot be measured here\nhint: --weights q4, or a smaller --context"
        )
    with (
        Progress(Terminal(sys.stderr), f"measuring {what.name}"),
        target.loaded(what, args, plan.weights, True) as model,
    ):
        prompt = min(PROMPT, model.engine.context - 1)
        prefill = prompt / min(prefill_s(model.engine, prompt) for _ in range(2))
        depth = min(plan.context, model.engine.context - 40)
        return dataclasses.replace(plan, prefill=prefill, decode=1 / step_s(model.engine, depth, 1, 16))


def _show(terminal: Terminal, what: Target, plans: list[Plan], as_json: bool) -> None:
    free = plans[0].available
    if as_json:
        records = [_record(plan) for plan in plans]
        record = {"model": what.name, "context": plans[0].context, "available": free, "plans": records}
        terminal.command(json.dumps(record, indent=2) + "\n")
        return
    room = "unknown" if free is None else f"{free / MIB:,.0f} MiB available here"
    terminal.write(f"{what.name} with {plans[0].context:,} tokens of context; memory: {room}\n\n")
    head = ("weights", "MiB", "KV", "state", "KV MiB", "workspace", "total MiB", "fits", "longest", "decode", "prefill")
    for row in [head, *map(_row, plans)]:
        terminal.write("".join(f"{cell:>{10 if i else 7}}" for i, cell in enumerate(row)).rstrip() + "\n")
    terminal.write("\nlongest: tokens of one sequence that fit; decode, prefill: tokens a second, ")
    terminal.write("measured of at most\n" if plans[0].decode else "at most (--measure runs it)\n")
    mapped = max(plan.memory.mapped for plan in plans)
    if mapped and any(plan.weights in ("q4", "q8") for plan in plans):
        terminal.write(f"the embedding's rows ({mapped / MIB:,.0f} MiB) stay in the checkpoint's file\n")
    if seeing := [plan.eyes for plan in plans if plan.eyes]:
        _show_eyes(terminal, plans, seeing[0])
    if what.path is None and plans[0].decode:
        terminal.write("random weights: speed only\n")


def _show_eyes(terminal: Terminal, plans: list[Plan], one: Eyes) -> None:
    towers = ", ".join(f"{plan.eyes.weights / MIB:,.0f} ({plan.weights})" for plan in plans if plan.eyes)
    height, width = PICTURE
    terminal.write(f"pictures take more: the vision tower {towers} MiB from the first one on, and ")
    terminal.write(
        f"{one.workspace / MIB:,.0f} MiB while it looks at {width} x {height} pixels ({one.tokens} tokens)\n"
    )


def _row(plan: Plan) -> tuple[str, ...]:
    cost = plan.memory
    sizes = (cost.weights, cost.state, cost.kv_token * plan.context, cost.workspace, plan.total)
    weights, state, keys, workspace, total = (f"{size / MIB:,.0f}" for size in sizes)
    fits = "yes" if plan.fits else "NO"
    speeds = _speed(plan.decode, plan.decode_roof), _speed(plan.prefill, plan.prefill_roof)
    return (plan.weights, weights, plan.kv, state, keys, workspace, total, fits, f"{plan.longest:,}", *speeds)


def _speed(measured: float | None, roof: float | None) -> str:
    known = [f"{value:,.0f}" for value in (measured, roof) if value is not None]
    return "/".join(known) or "-"


def _record(plan: Plan) -> dict[str, Any]:
    cost = plan.memory
    return {
        "weights": plan.weights,
        "kv": plan.kv,
        "bytes": {
            "weights": cost.weights,
            "state": cost.state,
            "kv": cost.kv_token * plan.context,
            "kv_token": cost.kv_token,
            "workspace": cost.workspace,
            "total": plan.total,
            "mapped": cost.mapped,
        },
        "vision": dataclasses.asdict(plan.eyes) if plan.eyes else None,
        "fits": plan.fits,
        "longest": plan.longest,
        "tokens_s": {
            "decode": plan.decode,
            "decode_at_most": plan.decode_roof,
            "prefill": plan.prefill,
            "prefill_at_most": plan.prefill_roof,
        },
    }
