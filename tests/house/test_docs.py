"""The guides are true: their examples run, their links lead somewhere, the places they name exist."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import ingot

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")] + sorted(
    ROOT.glob("docs/**/*.md")
)
RUN = re.compile(r"^<!-- run(?:, shows: (.*?))? -->\n```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUGGET = resources.files("ingot").joinpath("nugget", "model.safetensors").is_file()
EXAMPLES = [path for path in GUIDES if RUN.search(path.read_text(encoding="utf-8"))]
PLACES = [ROOT, ROOT / "src/ingot", ROOT / "native", ROOT / "native/kernels", ROOT / "tests"]


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.skipif(not NUGGET, reason="the nugget's weights are not here")
@pytest.mark.parametrize("guide", EXAMPLES, ids=named)
def test_the_examples_run(guide, tmp_path, monkeypatch):
    """Python blocks share one namespace, in order; a shell block runs without its `pip install`."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for shows, language, block in RUN.findall(guide.read_text(encoding="utf-8")):
        seen = run_python(block, names) if language == "python" else run_shell(block, tmp_path)
        assert shows in seen, f"{block}\nshows {seen!r}"


def run_python(block, names):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(block, "a guide's example", "exec"), names)
    return shown.getvalue()


def run_shell(block, place):
    program = place / "ingot"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ingot.cli "$@"\n')
    program.chmod(0o755)
    lines = [line for line in block.splitlines() if not line.startswith("pip install")]
    env = os.environ | {
        "PATH": f"{place}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(Path(ingot.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    script = "set -e\n" + "\n".join(lines)
    run = subprocess.run(["sh", "-c", script], cwd=place, env=env, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("guide", GUIDES, ids=named)
def test_links_lead_somewhere(guide):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", guide.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (guide.parent / target).exists()]
    assert [target for target in missing if NUGGET or "nugget" not in target] == []


def test_the_map_names_what_is_there():
    """`file.py: name, name` in ARCHITECTURE.md, before the part about what is to come."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Where the next things go")[0]
    wrong = []
    for code in re.findall(r"`([^`]+)`", text):
        match = re.fullmatch(r"([\w/.]+\.(?:py|h|cpp|md|json))(?:: (.+?)(?:\(.*\))?)?", code)
        if match is None:
            continue
        file = next((place / match[1] for place in PLACES if (place / match[1]).is_file()), None)
        file = file or next(iter((ROOT / "src/ingot/model").glob(match[1])), None)
        if file is None:
            wrong.append(f"{code}: no such file")
        elif match[2]:
            source = file.read_text(encoding="utf-8")
            names = [name.split(".")[-1] for name in match[2].split(", ")]
            wrong += [
                f"{code}: no {n}" for n in names if not re.search(rf"(?:def|class) {n}\b|^{n} =", source, re.MULTILINE)
            ]
    assert wrong == []


def test_a_reason_is_short_and_whole():
    """docs/why: at most 60 lines; a decision, its because, and its evidence or cost."""
    for path in ROOT.glob("docs/why/*.md"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, path.name
        missing = [
            part for part in ("Decision", "Because", "(Cost|Evidence)") if not re.search(rf"^\*\*{part}", text, re.M)
        ]
        assert not missing, f"{path.name}: {missing}"
