"""`ingot pull`: a model from the Hugging Face hub into its cache, where `ingot chat` and other tools find it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli.failure import FAILED, Parser, UsageError, say
from ingot.cli.progress import Progress
from ingot.cli.terminal import Terminal

if TYPE_CHECKING:
    from ingot.store.pull import Plan

EPILOG = """\
Fetched are the files that Ingot reads: configuration, tokenizer, template, preprocessors, safetensors. They lie in the
hub's own cache (HF_HOME, HF_HUB_CACHE), shared with other tools. What was cut goes on where it stopped; every file is
compared with the hub's checksum. stdout has the directory, or the file with --file; all else is on stderr.

examples:
  ingot pull Qwen/Qwen3.5-0.8B && ingot chat Qwen/Qwen3.5-0.8B
  ingot pull org/model-GGUF --file model-Q4_K_M.gguf
  ingot pull Qwen/Qwen3.5-0.8B --check              read what is here, and fetch again what is damaged

exit codes: 0, 1 when it could not be fetched or is damaged, 2 bad input, 130 Ctrl-C"""


def parser() -> Parser:
    """The options of `ingot pull`."""
    made = Parser("pull", description="Download a model from the Hugging Face hub.", epilog=EPILOG)
    made.add_argument("model", metavar="ORG/NAME", help="the model's id on the hub")
    made.add_argument("--revision", default="main", metavar="NAME", help="a branch, tag or commit (default: main)")
    made.add_argument("--file", action="append", default=[], metavar="NAME", help="this file alone; may be repeated")
    made.add_argument("--check", action="store_true", help="also compare the files that are here with their checksums")
    made.add_argument("--dry-run", action="store_true", help="say what would be fetched")
    return made


def run(args: argparse.Namespace) -> int:
    """Fetch what is missing; 1 when a file is damaged and cannot be fetched again."""
    from huggingface_hub import constants

    from ingot.store.hub import is_hub_id
    from ingot.store.pull import plan_pull

    if not is_hub_id(args.model):
        raise UsageError(f"ORG/NAME is {args.model!r}; the id of a model on the hub looks like Qwen/Qwen3.5-0.8B")
    err = Terminal(sys.stderr)
    if constants.HF_HUB_OFFLINE:
        return _offline(args, err)
    plan = plan_pull(args.model, args.revision, args.file)
    if args.check and _discard_damaged(plan, err):
        plan = plan_pull(args.model, args.revision, args.file)
    _announce(plan, err)
    if not args.dry_run:
        _fetch(plan, args, err)
        _show(plan.snapshot, args)
    return 0


def _announce(plan: Plan, err: Terminal) -> None:
    from ingot.store.pull import free_bytes, size

    found, count = plan.listing, len(plan.files)
    at = f"{found.revision}, {found.commit[:7]}" if found.revision != found.commit else found.commit[:7]
    err.write(f"{found.model} ({at}): {count} file{'s' if count > 1 else ''}, {size(plan.nbytes)}\n")
    if plan.missing:
        err.write(f"to fetch: {size(plan.to_fetch)}, into {plan.snapshot} ({size(free_bytes())} free)\n")
    else:
        err.write("all of it is here\n")


def _fetch(plan: Plan, args: argparse.Namespace, err: Terminal) -> None:
    from ingot.store import open_checkpoint
    from ingot.store.pull import pull

    try:
        with Progress(err, f"fetching {args.model}") as line:
            pull(plan, line.at_bytes)
    except KeyboardInterrupt:
        say("stopped; what has come is kept, and the same command goes on")
        raise
    if not args.file:
        open_checkpoint(plan.snapshot)  # what cannot be run is told now, not at the first chat


def _discard_damaged(plan: Plan, err: Terminal) -> bool:
    """Remove the files that are here and have not the hub's checksum, and say which."""
    from ingot.store.checksum import Sum
    from ingot.store.pull import remove

    here = [file for file in plan.files if file not in plan.missing]
    with Progress(err, f"reading {plan.listing.model}") as line:
        tell = Sum(line.at_bytes, sum(file.nbytes for file in here))
        wrong = [file for file in here if not file.is_right(plan.snapshot / file.name, tell)]
    for file in wrong:
        say(f"{plan.snapshot / file.name}: is damaged; it is fetched again")
        remove(plan.snapshot / file.name)
    if not wrong:
        err.write(f"{len(here)} of {len(plan.files)} files are here, and right\n")
    return bool(wrong)


def _offline(args: argparse.Namespace, err: Terminal) -> int:
    """Without a network: what is here, and with --check whether it is right."""
    from ingot.store.checksum import damaged
    from ingot.store.hub import cached_snapshot, is_complete

    snapshot = cached_snapshot(args.model, args.revision)
    missing = [name for name in args.file if snapshot is None or not (snapshot / name).is_file()]
    if snapshot is None or missing or not (args.file or is_complete(snapshot)):
        what = f"{missing[0]} of {args.model}" if snapshot and missing else f"model {args.model!r} at {args.revision}"
        what += ", all of it," if snapshot and not missing else ""
        raise FileNotFoundError(
            f"{what} is not in the cache, and HF_HUB_OFFLINE forbids a download\nhint: HF_HUB_OFFLINE=0 for one go"
        )
    if args.check:
        with Progress(err, f"reading {args.model}") as line:
            wrong, unknown = damaged(snapshot, line.at_bytes)
        for name in wrong:
            say(
                f"{snapshot / name}: is damaged\nhint: with a network, ingot pull {args.model} --check fetches it again"
            )
        for name in unknown:
            say(f"warning: {snapshot / name}: the cache does not tell its checksum")
        if wrong:
            return FAILED
        err.write("every file is right\n")
    _show(snapshot, args)
    return 0


def _show(snapshot: Path, args: argparse.Namespace) -> None:
    for path in [snapshot / name for name in args.file] or [snapshot]:
        sys.stdout.write(f"{path}\n")
