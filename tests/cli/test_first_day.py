"""docs/first_day.md: every capture is what a plain terminal of 100 columns shows; `…` is what was cut."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from importlib import resources
from pathlib import Path

import pytest

from tests.cli.first_day_files import write_first_day
from tests.cli.run_ingot import environment

GUIDE = Path(__file__).parents[2] / "docs" / "first_day.md"
CAPTURES = [
    capture
    for block in re.findall(r"^```console\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for capture in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guide's user has on disk."""
    if not resources.files("ingot").joinpath("nugget", "model.safetensors").is_file():
        pytest.skip("the nugget's weights are not here")
    place = tmp_path_factory.mktemp("home")
    write_first_day(place)
    program = place / ".bin" / "ingot"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ingot.cli "$@"\n')
    program.chmod(0o755)
    return place


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
@pytest.mark.parametrize(("command", "capture"), CAPTURES, ids=[command for command, _ in CAPTURES])
def test_a_capture_is_what_the_terminal_shows(command: str, capture: str, home: Path) -> None:
    seen = shown(command, home)
    pattern = "".join(".*" if piece == "…" else re.escape(piece) for piece in re.split("(…)", capture))
    assert re.fullmatch(pattern, seen, re.DOTALL), seen


def shown(command: str, home: Path) -> str:
    """All that the command writes on a terminal that can only append."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    env = environment(TERM="dumb", HF_HUB_OFFLINE="1", HF_HOME=str(home / ".hf"), XDG_CACHE_HOME=str(home / ".cache"))
    env["PATH"] = f"{home / '.bin'}:{env['PATH']}"
    process = subprocess.Popen(
        ["sh", "-c", command], cwd=home, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(own, 65536):
            seen += data
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(own)
        process.wait(timeout=100)
    return seen.decode(errors="replace").replace("\r", "")


def test_the_guide_has_captures() -> None:
    assert len(CAPTURES) > 10
