"""ExecuTorch's OpenAI contract, unmodified, against a server of ours. `pytest -m executorch`; INGOT_EXECUTORCH is its
wheel (`pip download --no-deps executorch`), or where that is unpacked."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli.test_serve import started
from tests.scripted.model import scripted_model
from tests.serve.running import serving

GIVEN = Path(os.environ.get("INGOT_EXECUTORCH", "executorch is not there"))
CONTRACT = "executorch/examples/llm_server/conformance/test_openai_contract.py"
pytestmark = [
    pytest.mark.executorch,
    pytest.mark.skipif(not GIVEN.exists(), reason="INGOT_EXECUTORCH names no wheel of executorch"),
]
CALL = "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"


@pytest.fixture(scope="module")
def contract(tmp_path_factory) -> Path:
    """The file, alone in a directory."""
    place = tmp_path_factory.mktemp("contract") / "test_openai_contract.py"
    data = zipfile.ZipFile(GIVEN).read(CONTRACT) if GIVEN.is_file() else (GIVEN / CONTRACT).read_bytes()
    place.write_bytes(data)
    return place


def outcomes(contract: Path, port: int, model: str) -> dict[str, str]:
    """Test -> outcome."""
    env = os.environ | {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_MODEL": model}
    words = ["-m", "pytest", str(contract), "-rA", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    made = subprocess.run(
        [sys.executable, *words, "--rootdir", str(contract.parent)],
        cwd=contract.parent, env=env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    rows = [line.split() for line in made.stdout.splitlines()]
    found = {
        row[1].partition("::")[2]: row[0].lower() for row in rows if row and row[0] in ("PASSED", "FAILED", "SKIPPED")
    }
    assert len(found) == 7, made.stdout[-3000:]
    return found


def recite(prompt: str) -> str:
    """As a model that does what it is told."""
    said = prompt.rsplit("<|im_start|>user\n", 1)[-1].split("<|im_end|>")[0]
    return CALL if "Paris" in said else "你好世界 🌍 café" if "café" in said else "Hello."


def test_a_model_that_does_as_told(contract, tmp_path):
    """All of it passes."""
    model = scripted_model(tmp_path, recite)
    with serving(lambda: model) as running:
        assert set(outcomes(contract, running.port, "scripted").values()) == {"passed"}


def test_the_nugget(contract):
    """All but the tool call, which the nugget has not learnt."""
    with started("--alias", "small") as (_, port):
        found = outcomes(contract, port, "small")
    assert [test for test, outcome in found.items() if outcome != "passed"] == ["test_tool_call_response_shape"]
