"""The commands of docs/chat.md do what it shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from tests.cli.run_ingot import environment

GUIDE = Path(__file__).parents[2] / "docs" / "chat.md"
TEXT = GUIDE.read_text(encoding="utf-8") if GUIDE.is_file() else ""
EXAMPLES = [
    (command, output.splitlines())
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]


def _nugget_is_here() -> bool:
    try:
        return resources.files("ingot.nugget").joinpath("config.json").is_file()
    except ModuleNotFoundError:
        return False


@pytest.mark.skipif(not _nugget_is_here(), reason="the nugget's weights are not here")
@pytest.mark.parametrize(("command", "output"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_the_guide(command: str, output: list[str], tmp_path: Path) -> None:
    (tmp_path / "question.txt").write_text("What is 33 + 66?\n")
    program = tmp_path / "ingot"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ingot.cli "$@"\n')
    program.chmod(0o755)
    env = environment()
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == output, done.stderr


def test_the_guide_names_every_command_and_key() -> None:
    from ingot.cli.sampling import PARAMETERS, option
    from ingot.cli.slash import COMMANDS

    assert EXAMPLES
    assert [name for name in COMMANDS if f"/{name}" not in TEXT] == []
    assert [name for name in PARAMETERS if option(name) not in TEXT] == []
