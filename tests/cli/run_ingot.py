"""Runs the command in a process of its own, over the reciting model or over real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ingot

SCRIPTED = str(Path(__file__).with_name("scripted.py"))
SOURCE = str(Path(ingot.__file__).parents[1])


def environment(**more: str) -> dict[str, str]:
    """This process's environment, able to import ingot, with a plain terminal and whatever `more` says."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    paths = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": paths, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **more}


def command(*words: str, real: bool = False) -> list[str]:
    """The words to start: the command over the reciting model, or with `real` as users have it."""
    return [sys.executable, *(["-m", "ingot.cli"] if real else [SCRIPTED]), *words]


def run(*words: str, stdin: bytes | None = None, real: bool = False, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run to the end; stdin None is empty, as under cron."""
    settings = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        command(*words, real=real), capture_output=True, timeout=600, env=environment(**env), check=False, **settings
    )
