"""docs/serve.md: its examples run against a server, its table is the code's."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ingot
from ingot.serve.limits import LIMITS
from tests.serve.running import serving

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"
TEXT = GUIDE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^<!-- served, shows: (.*?) -->\n```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def nugget():
    try:
        model = ingot.load()
    except (ValueError, FileNotFoundError):
        pytest.skip("the nugget's weights are not here")
    with serving(lambda: model, names=["nugget"]) as running:
        yield running


@pytest.mark.parametrize(("shows", "language", "block"), EXAMPLES, ids=[f"{e[1]} {e[0]}" for e in EXAMPLES])
def test_an_example_runs(nugget, shows, language, block):
    block = block.replace("127.0.0.1:8000", f"127.0.0.1:{nugget.port}")
    if language == "python":
        pytest.importorskip("openai")
        seen = io.StringIO()
        with contextlib.redirect_stdout(seen):
            exec(compile(block, str(GUIDE), "exec"), {})
        assert shows in seen.getvalue()
    else:
        if shutil.which("curl") is None:
            pytest.skip("curl is not here")
        run = subprocess.run(["sh", "-ec", block], capture_output=True, text=True, timeout=600)
        assert shows in run.stdout, run.stderr


def table():
    rows = [f"| {value:,} {unit} | {why} |" for value, unit, why in LIMITS.values()]
    return "\n".join(["| at most | because |", "|---|---|", *rows])


def test_the_limits_are_those_of_the_code():
    assert table() in TEXT, f"docs/serve.md needs this table:\n{table()}"
    assert len(EXAMPLES) == 3
