"""llama.cpp's own server tests against `ingot serve`. `pytest -m llama`; INGOT_LLAMA is the directory in which
`bench.llama` has unpacked it (default: where `bench.side_by_side` does). They need the package `requests`.

What must pass, and why each other is not ours to pass: llama_table.py. How it is run: llama_shim.py.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign.llama_table import FAILS, PATHS
from tests.serve.running import serving

pytest.importorskip("requests")

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(os.environ.get("INGOT_LLAMA", Path.home() / ".cache/ingot-bench"))
THEIRS = next(iter(sorted(PLACE.glob("llama_cpp_python-*/vendor/llama.cpp/tools/server/tests"))), PLACE / "tests")
pytestmark = [
    pytest.mark.llama,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not THEIRS.is_dir(), reason=f"llama.cpp is not unpacked under {PLACE} (INGOT_LLAMA)"),
]


def outcomes(file: str, tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Test -> (outcome, the error's first line) of one of their files, run by a pytest of its own."""
    found = tmp_path / "outcomes.jsonl"
    paths = [str(THEIRS), str(Path(sys.modules["ingot"].__file__ or "").parents[1]), str(ROOT)]
    words = ["--noconftest", "-p", "tests.foreign.llama_shim", "-p", "no:cacheprovider", "-c", os.devnull, "-q"]
    words += ["--rootdir", str(THEIRS), "-m", "not slow", "--timeout", "60", f"unit/{file}"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "INGOT_OUTCOMES": str(found)}
    env |= {"PYTHONDONTWRITEBYTECODE": "1"}  # nothing is written where their files lie
    made = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=THEIRS, env=env, capture_output=True, text=True, timeout=800
    )
    assert made.returncode in (0, 1), made.stdout[-2000:] + made.stderr[-2000:]
    rows = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    return {test.partition("::")[2]: (outcome, message) for test, outcome, message in rows}


@pytest.mark.parametrize("file", FAILS)
def test_what_the_table_says(file, tmp_path):
    """Of their file: what the table does not name passes, what it names fails, and it names nothing else."""
    seen = outcomes(file, tmp_path)
    reasons = {test: FAILS[file].get(test) or FAILS[file].get(test.partition("[")[0]) for test in seen}
    wrong = {
        test: told
        for test, told in seen.items()
        if told[0] not in ("skipped", "failed" if reasons[test] else "passed")  # they skip what fails with themselves
    }
    assert wrong == {}
    names = {*seen, *(test.partition("[")[0] for test in seen)}
    assert [name for name in FAILS[file] if name not in names] == []


def test_every_file_of_theirs_has_its_place():
    assert {path.name for path in (THEIRS / "unit").glob("test_*.py")} == {*FAILS, *PATHS}


@pytest.mark.parametrize("file", PATHS)
def test_what_is_not_run_needs_a_path_that_is_not_here(file, reciting_answers):
    """The file uses the path, and nothing is posted there; or an address from which models come."""
    tree = ast.parse((THEIRS / "unit" / file).read_text(encoding="utf-8"))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    used = [text for text in strings if text.startswith(PATHS[file])]
    needs_client = PATHS[file] == "/responses" and "client.responses" in ast.unparse(tree)
    assert used or needs_client
    assert PATHS[file].startswith("https:") or reciting_answers(PATHS[file]) in (404, 405)


@pytest.fixture(scope="module")
def reciting_answers(tmp_path_factory) -> Iterator:
    """path -> the status of a POST there."""
    from tests.scripted.model import scripted_model

    model = scripted_model(tmp_path_factory.mktemp("scripted"), lambda prompt: "yes")
    with serving(lambda: model) as running:
        yield lambda path: running.ask(path, {})[0]
