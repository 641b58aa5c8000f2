"""`ingot verify`: is this checkpoint right, and does this machine compute it right?"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.cli import chat, machine
from ingot.cli.failure import FAILED, Parser
from ingot.cli.progress import Progress
from ingot.cli.terminal import BOLD, PLAIN, Terminal

if TYPE_CHECKING:
    from ingot.verify import Check

EPILOG = """\
The digests of logits are the same on every machine: compare yours with others'. --json prints one object, to paste
into an issue.

examples:
  ingot verify                                            the bundled nugget
  ingot verify Qwen/Qwen3.5-0.8B --against transformers --json > report.json

exit codes: 0, 1 when a check fails, 2 bad input"""


def parser() -> Parser:
    """The options of `ingot verify`."""
    made = Parser("verify", description="Check a checkpoint, and what this machine computes of it.", epilog=EPILOG)
    made.add_argument("model", nargs="?", metavar="MODEL", help="a directory or hub id (default: the nugget)")
    made.add_argument("--against", choices=("transformers",), help="compare logits with it; needs torch, transformers")
    made.add_argument("--quick", action="store_true", help="leave out what takes longest")
    made.add_argument("--json", action="store_true", help="one JSON object")
    return made


def run(args: argparse.Namespace) -> int:
    """Make every check, also after a failure; 1 when one failed."""
    from ingot.loading import nugget_path
    from ingot.store import resolve
    from ingot.verify import verify

    path = nugget_path() if chat.is_nugget(args.model) else resolve(args.model)
    out, checks = Terminal(sys.stdout), []
    line = _Line(Terminal(sys.stderr))
    try:
        for check in verify(path, args.against, args.quick, line.told, line.begins):
            line.stop()
            checks.append(check)
            if not args.json:
                _show(out, check)
    finally:
        line.stop()
    failed = [check.name for check in checks if check.state == "FAIL"]
    if args.json:
        out.command(json.dumps(_record(args.model or "nugget", path, checks), ensure_ascii=False, indent=1) + "\n")
    else:
        skipped = sum(check.state == "skip" for check in checks)
        out.command(f"\n{_verdict(len(checks), failed, skipped)}\n")
    return FAILED if failed else 0


class _Line:
    """The progress line of the check that runs."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._progress: Progress | None = None

    def begins(self, name: str) -> None:
        self._progress = Progress(self._terminal, f"checking {name}").__enter__()

    def told(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress.at_bytes(done, total)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _show(out: Terminal, check: Check) -> None:
    state = f"{check.state:<4}"
    out.command(f"{BOLD}{state}{PLAIN}" if out.colour and check.state == "FAIL" else state)
    out.write(f" {check.name:<14} {check.text}\n")


def _verdict(total: int, failed: list[str], skipped: int) -> str:
    left = f", {skipped} left out" if skipped else ""
    if failed:
        return f"{len(failed)} of {total} checks failed: {', '.join(failed)}{left}."
    return f"{total - skipped} checks, all right{left}."


def _record(model: str, path: Path, checks: list[Check]) -> dict[str, Any]:
    """Everything that somebody else needs to compare."""
    findings = [*machine.software(), *machine.kernels(), *machine.packages(), *machine.resources()]
    return {
        "model": model,
        "revision": path.name if path.parent.name == "snapshots" else None,
        "commit": _commit(),
        "ok": all(check.state != "FAIL" for check in checks),
        "machine": {finding.name: finding.data or finding.text for finding in findings},
        "processor": _processor(),
        "checks": [vars(check) for check in checks],
    }


def _commit() -> str | None:
    """The commit of Ingot, where it runs from a clone."""
    import ingot

    place = Path(ingot.__file__).parent
    try:
        words = ["git", "-C", str(place), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        import platform

        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
