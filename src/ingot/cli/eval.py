"""`ingot eval`: the measurements of ingot.eval on a model, as a table with intervals."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from ingot.cli import chat
from ingot.cli.failure import Parser, UsageError
from ingot.cli.progress import Progress
from ingot.cli.terminal import Terminal, harmless

if TYPE_CHECKING:
    from ingot.eval.score import Score

TASKS = {
    "nugget": "everything on the bundled model's card, with and without thinking",
    "arithmetic": "held-out sums of two numbers up to three digits, in one mode",
}
SHOWN_MISTAKES = 5


def parser() -> Parser:
    """The options of `ingot eval`."""
    listed = "\n".join(f"  {name:<12}{what}" for name, what in TASKS.items())
    made = Parser("eval", description="Measure a model on a task; greedy, so every run gives the same.")
    made.epilog = f"tasks:\n{listed}\n\nexample:\n  ingot eval --task arithmetic --limit 100 --think"
    made.add_argument(
        "model", nargs="?", metavar="MODEL", help="a directory, GGUF file or hub id (default: the nugget)"
    )
    made.add_argument("--task", choices=TASKS, default="nugget", help="default: nugget")
    made.add_argument("--limit", type=int, default=1000, metavar="N", help="sums to ask in each mode (default: 1000)")
    chat.add_thinking(made, "let the model reason; only for --task arithmetic (default: not)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="draws other questions (default: 0)")
    made.add_argument("--json", action="store_true", help="the scores as one JSON object")
    chat.add_running(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Ask, count, show."""
    if args.task == "nugget" and args.think is not None:
        raise UsageError("--think and --no-think are for --task arithmetic; the task nugget measures both")
    if args.limit < 10:
        raise UsageError(f"--limit is {args.limit}; at least 10 questions are needed for a share to mean anything")
    model = chat.load_model(args)
    with Progress(Terminal(sys.stderr), f"asking {args.model or 'nugget'}") as line:
        if args.task == "nugget":
            from ingot.eval.nugget import evaluate

            scores = evaluate(model, args.limit, args.seed, line.at)
        else:
            scores = [_arithmetic(model, args.limit, args.seed, bool(args.think), line)]
    _show(Terminal(sys.stdout), scores, args)
    return 0


def _arithmetic(model: Any, limit: int, seed: int, thinking: bool, line: Progress) -> Score:
    from ingot.eval.nugget import all_questions, answer_of
    from ingot.eval.score import Score

    kind = f"{'thinking' if thinking else 'direct'}: all sums"
    right, mistakes = 0, []
    questions = [question for question in all_questions(limit, seed) if kind in question.kinds]
    for done, question in enumerate(questions):
        line.at(done, len(questions))
        answer = answer_of(model, question)
        good = question.right(answer)
        right += good
        if not good:
            mistakes.append((question.messages[-1]["content"], answer))
    return Score(kind, right, len(questions), tuple(mistakes))


def _show(terminal: Terminal, scores: list[Score], args: argparse.Namespace) -> None:
    from ingot.eval.score import table

    if args.json:
        rows = [
            dataclasses.asdict(score) | {"accuracy": score.accuracy, "interval": score.interval} for score in scores
        ]
        record = {"model": args.model or "nugget", "task": args.task, "seed": args.seed, "scores": rows}
        terminal.command(json.dumps(record, ensure_ascii=False, indent=2) + "\n")
        return
    terminal.write(table(scores) + "\n")
    mistakes = [mistake for score in scores for mistake in score.mistakes]
    if mistakes:
        terminal.write("\nmistakes, for example:\n")
    for question, answer in list(dict.fromkeys(mistakes))[:SHOWN_MISTAKES]:
        terminal.write(f"  {harmless(question)!r} -> {harmless(answer)!r}\n")
