"""`ingot doctor`: what this installation is, which kernels run, and whether every backend answers right."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator

from ingot.cli import machine
from ingot.cli.failure import FAILED, Parser
from ingot.cli.machine import Finding
from ingot.cli.terminal import BOLD, PLAIN, Terminal

MARKS = {"ok": "ok  ", "info": "    ", "warning": "WARN", "failure": "FAIL"}
INDENT = 17  # columns before the text of a finding


def parser() -> Parser:
    """The options of `ingot doctor`."""
    made = Parser(
        "doctor",
        description="Check this installation: versions, kernels, memory, models, and one sum on every backend.",
        epilog="exit codes: 0, 1 when something is broken; a warning is not",
    )
    made.add_argument("--json", action="store_true", help="one JSON object, for an issue or a script")
    return made


def run(args: argparse.Namespace) -> int:
    """Look at everything, also after a failure; 1 when something is broken."""
    terminal = Terminal(sys.stdout)
    findings = []
    for finding in examine():
        findings.append(finding)
        if not args.json:
            _show(terminal, finding)
    broken = [finding for finding in findings if finding.state == "failure"]
    if args.json:
        record = {"ok": not broken, "findings": [dataclasses.asdict(finding) for finding in findings]}
        terminal.command(json.dumps(record, ensure_ascii=False, indent=2) + "\n")
    else:
        warned = any(finding.state == "warning" for finding in findings)
        terminal.command(f"\n{_verdict(len(broken), warned)}\n")
    return FAILED if broken else 0


def examine() -> Iterator[Finding]:
    """All findings, in the order in which they are shown."""
    from ingot.cli import self_test

    looks: list[Callable[[], Iterable[Finding]]] = [
        machine.software,
        machine.kernels,
        machine.packages,
        machine.resources,
        machine.models,
        self_test.backends,
    ]
    for look in looks:
        try:
            yield from look()
        except Exception as error:  # one broken corner must not hide the others
            yield Finding(look.__name__, "failure", f"cannot be looked at: {type(error).__name__}: {error}")


def _verdict(broken: int, warned: bool) -> str:
    if broken:
        return f"{broken} thing{' is' if broken == 1 else 's are'} broken."
    return "Works, with a warning." if warned else "All is well."


def _show(terminal: Terminal, finding: Finding) -> None:
    mark = MARKS[finding.state]
    if terminal.colour and finding.state in ("warning", "failure"):
        terminal.command(f"{BOLD}{mark}{PLAIN}")
    else:
        terminal.write(mark)
    terminal.write(f" {finding.name:<11} {_folded(terminal, finding.text)}\n")
    if finding.hint:
        terminal.write(f"{'':<{INDENT}}-> {_folded(terminal, finding.hint)}\n")


def _folded(terminal: Terminal, text: str) -> str:
    """`text` broken to the terminal's width under its own beginning; one line for a file."""
    if not terminal.tty:
        return text
    rows = textwrap.wrap(text, max(20, terminal.size[0] - INDENT - 1), break_long_words=False, break_on_hyphens=False)
    return f"\n{'':<{INDENT}}".join(rows)
