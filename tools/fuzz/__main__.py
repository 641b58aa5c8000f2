"""python -m tools.fuzz TARGET | all: feed a reader hostile inputs until the time is over.

Exit code 0: no finding; 1: findings, each saved with the command that repeats it; 2: the arguments cannot be used.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.fuzz.minimise import minimised
from tools.fuzz.target import Finding, Target
from tools.fuzz.targets import TARGETS, skipped
from tools.fuzz.worker import Worker, explore, once

MOST_FINDINGS = 50  # different ones; with more the reader is not ready to be fuzzed
PROGRESS_S = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print, and return the exit code."""
    options = _parser().parse_args(arguments)
    if options.input:
        return _repeat(TARGETS[options.target], Path(options.input))
    names = sorted(TARGETS) if options.target == "all" else [options.target]
    failed = False
    for name in names:
        failed |= _fuzz(TARGETS[name], options)
    if options.target == "all":
        for name, why in skipped().items():
            print(f"{name}: skipped: {why}")
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("target", choices=[*sorted(TARGETS), "all"], metavar="TARGET", help=", ".join(sorted(TARGETS)))
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the random changes (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with its own seed (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("fuzz-findings"), help="folder for findings")
    parser.add_argument("--input", metavar="FILE", help="execute this one input and tell what happens")
    return parser


def _repeat(target: Target, path: Path) -> int:
    finding = once(target, path.read_bytes())
    print(f"{target.name}: {finding.signature}: {finding.sentence}" if finding else f"{target.name}: no finding")
    return int(finding is not None)


@dataclass
class Run:
    """The state of fuzzing one target: its processes, what they kept, what they found."""

    target: Target
    seed: int
    corpus: list[bytes] = field(default_factory=list)
    found: dict[str, Finding] = field(default_factory=dict)
    executions: int = 0
    covered: int = 0

    def start(self) -> Worker:
        self.seed += 1
        return Worker(self.target, explore(self.seed, self.corpus))

    def take(self, worker: Worker) -> list[Finding]:
        """What a worker has kept and found since the last time; returns the findings of a new kind."""
        self.corpus += worker.kept
        self.covered = max(self.covered, worker.covered)
        new = {finding.signature: finding for finding in worker.found if finding.signature not in self.found}
        worker.kept, worker.found = [], []
        self.found |= new
        return list(new.values())


def _fuzz(target: Target, options: argparse.Namespace) -> bool:
    run = Run(target, options.seed * 1000, target.corpus())
    begin, shown = time.monotonic(), time.monotonic()
    workers = [run.start() for _ in range(options.jobs)]
    try:
        while time.monotonic() < begin + 60 * options.minutes and len(run.found) < MOST_FINDINGS:
            for index, worker in enumerate(workers):
                alive = worker.watch()
                for finding in run.take(worker):
                    _save(target, finding, options.output)
                if not alive:
                    run.executions += worker.executions
                    worker.end()
                    workers[index] = run.start()
            if time.monotonic() > shown + PROGRESS_S:
                shown = time.monotonic()
                print(f"... {_summary(run, workers, shown - begin)}", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        for worker in workers:
            worker.end()
    print(_summary(run, workers, time.monotonic() - begin), flush=True)
    return bool(run.found)


def _summary(run: Run, workers: Sequence[Worker], seconds: float) -> str:
    executions = run.executions + sum(worker.executions for worker in workers)
    return (
        f"{run.target.name}: {executions} executions in {seconds:.0f} s ({executions / max(seconds, 1e-9):.0f} a "
        f"second), corpus {len(run.corpus)}, {run.covered} lines covered, {len(run.found)} findings"
    )


def _save(target: Target, finding: Finding, output: Path) -> None:
    small = minimised(target, finding)
    folder = output / target.name
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", finding.signature) + "-" + hashlib.sha256(small).hexdigest()[:8]
    (folder / name).write_bytes(small)
    print(f"FINDING {target.name}: {finding.signature}: {finding.sentence}")
    print(f"  {len(small)} bytes; repeat: python -m tools.fuzz {target.name} --input {folder / name}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
