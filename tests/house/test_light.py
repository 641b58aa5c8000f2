"""A user without torch waits for nothing: what an import brings with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ingot.store import write_random_checkpoint
from tests.model.small import RAW

HEAVY = ("torch", "transformers", "safetensors")


def modules_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after `code`."""
    show = "\nimport sys; print('MODULES', *{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code + show], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split("MODULES ")[1].split())


def test_importing_ingot_imports_nothing_else():
    assert modules_after("import ingot").isdisjoint(
        {"numpy", "tokenizers", "jinja2", "huggingface_hub", "rich", *HEAVY}
    )


@pytest.mark.parametrize(
    "code", ["from ingot.cli import main; main(['--version'])", "from ingot.cli import main; main([])"]
)
def test_a_command_without_a_model_needs_no_numpy(code):
    assert modules_after(code).isdisjoint({"numpy", "tokenizers", "jinja2", "huggingface_hub", *HEAVY})


@pytest.mark.parametrize("backend", [None, "reference"])
def test_a_loaded_model_needs_no_torch(tmp_path, backend):
    write_random_checkpoint(tmp_path / "model", RAW)
    code = f"import ingot; ingot.load({str(tmp_path / 'model')!r}, backend={backend!r}).logits([1, 2, 3])"
    assert modules_after(code).isdisjoint({"huggingface_hub", *HEAVY})
