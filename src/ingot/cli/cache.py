"""`ingot cache`: what was kept on disk so that models start at once, how large it is, and its removal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli.failure import FAILED, Parser, UsageError
from ingot.cli.terminal import Terminal

if TYPE_CHECKING:
    from ingot.store.cache import Entry

ACTIONS = ("list", "clear", "verify")
EPILOG = """\
  list      the files, by model (the default)
  clear     remove the files of MODEL, or all; the next start makes them again, but states of prompts
            ("prompts", of ingot serve --cache-disk), which come with the next ones
  verify    read every byte and compare it with what was written; exit code 1 when a file is damaged

The place is $INGOT_CACHE, or ingot in the system's directory for caches."""


def parser() -> Parser:
    """The options of `ingot cache`."""
    made = Parser(
        "cache",
        description="What is kept for the next start: packed weights, tokenizers, and states of prompts.",
        epilog=EPILOG,
    )
    made.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="list | clear | verify")
    made.add_argument("model", nargs="?", metavar="MODEL", help="a checkpoint directory or hub id (default: all)")
    made.add_argument("--json", action="store_true", help="one JSON object")
    return made


def run(args: argparse.Namespace) -> int:
    """Do it and show the files concerned."""
    from ingot.store import cache

    directory = cache.cache_directory()
    model = _model(args.model)
    if args.action == "clear":
        found, state = cache.clear(directory, model), dict[Path, str]()
    else:
        found = [entry for entry in cache.entries(directory) if model is None or entry.model == os.path.realpath(model)]
        state = {entry.path: _state(entry, args.action == "verify") for entry in found}
    _show(Terminal(sys.stdout), directory, found, state, args)
    return FAILED if "damaged" in state.values() else 0


def _model(name: str | None) -> Path | None:
    if name is None:
        return None
    from ingot.store import resolve

    try:
        return resolve(name)
    except FileNotFoundError:  # the model may be gone, and its cache still be there
        if os.path.sep not in name:
            raise UsageError(f"MODEL is {name!r}; there is no such directory or model") from None
        return Path(name)


def _state(entry: Entry, thorough: bool) -> str:
    """What is wrong with a file, or how much is known of it."""
    if not entry.model:
        return "damaged"
    if thorough:
        return "every byte is right" if entry.verify() else "damaged"
    return "" if os.path.exists(entry.model) else "the model is gone"


def _show(
    terminal: Terminal, directory: Path, found: list[Entry], state: dict[Path, str], args: argparse.Namespace
) -> None:
    total = sum(entry.nbytes for entry in found)
    if args.json:
        files = [
            {"path": str(e.path), "bytes": e.nbytes, "model": e.model, "what": e.what, "state": state.get(e.path, "")}
            for e in found
        ]
        terminal.command(json.dumps({"directory": str(directory), "bytes": total, "files": files}, indent=2) + "\n")
        return
    for entry in found:
        about = state.get(entry.path, "")
        note = f"  ({about})" if about else ""
        terminal.write(f"{_size(entry.nbytes):>9}  {entry.what:<9}  {entry.model or entry.path.name}{note}\n")
    what = "removed from" if args.action == "clear" else "in"
    terminal.write(f"{_size(total):>9}  {what} {directory}\n")


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"
