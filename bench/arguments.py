"""The arguments that measurements beside llama.cpp share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench.results import RESULTS

WORK = Path.home() / ".cache/ingot-bench"


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Of `python -m bench.NAME`, whose results go to bench/results/NAME.jsonl."""
    made = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=(doc or "").split("\n\n")[0])
    made.add_argument("--size", default="0.8B", help="0.8B, 2B, 4B or 9B")
    made.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    made.add_argument("--work", type=Path, default=WORK, help=f"gigabytes go here (default: {WORK})")
    made.add_argument("--llama", type=Path, help="where the llama-cpp-python sdist is unpacked (default: WORK)")
    made.add_argument("--lock", type=Path, help="a file that other measurements on this machine lock too")
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.jsonl")
    return made


def server_parser(name: str, doc: str | None, ours: str = "") -> argparse.ArgumentParser:
    """The same for two servers: one format, and options of each."""
    made = parser(name, doc)
    made.add_argument("--format", default="q4", help="of ours; the peer's file has equal bits")
    made.add_argument("--peer", help="another of llama.cpp's files: q4_0, q4_k_m")
    made.add_argument("--ours", default=ours, help="more options of ingot serve")
    made.add_argument("--theirs", default="", help="more options of llama-server")
    return made
