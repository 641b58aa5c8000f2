"""Without a C++ compiler the installation succeeds, works on numpy, and says that it is slow. Needs a registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.store import write_random_checkpoint
from tests.house.test_package import DATA
from tests.model.small import RAW

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory):
    """The wheel that pip builds where there is no C++ compiler."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "-w", str(place), str(ROOT)]
    nothing = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}
    run = subprocess.run(command, env=os.environ | nothing, capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stdout + run.stderr
    return next(place.glob("*.whl"))


def run_pure(pure_wheel: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python with the wheel before everything else; a wheel without kernels runs from its archive's contents."""
    site = pure_wheel.parent / "site"
    if not site.exists():
        zipfile.ZipFile(pure_wheel).extractall(site)
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=800,
    )


def test_without_a_compiler_the_wheel_is_pure_and_whole(pure_wheel):
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(pure_wheel).namelist()
    assert not [name for name in names if name.endswith((".so", ".pyd", ".dylib"))]
    assert {f"ingot/{name}" for name in DATA} <= set(names)
    assert {name.rsplit("/", 1)[1] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_without_kernels_it_works_and_says_that_it_is_slow(pure_wheel, tmp_path):
    path = write_random_checkpoint(tmp_path / "model", RAW)
    code = (
        "import ingot, json, sys; logits = ingot.load(sys.argv[1]).logits([1, 2, 3]); "
        "print(json.dumps([ingot.__file__, logits.tolist()]))"
    )
    run = run_pure(pure_wheel, "-c", code, str(path))
    assert run.returncode == 0, run.stderr
    place, logits = json.loads(run.stdout)
    assert Path(place).is_relative_to(pure_wheel.parent)
    assert np.array_equal(np.float32(logits), ingot.load(path, backend="reference").logits([1, 2, 3]))
    assert "native kernels are not built: using numpy, 10 to 100 times slower" in run.stderr


def test_without_kernels_native_is_refused_and_doctor_warns(pure_wheel, tmp_path):
    path = write_random_checkpoint(tmp_path / "model", RAW)
    run = run_pure(pure_wheel, "-c", f"import ingot; ingot.load({str(path)!r}, backend='native')")
    assert "backend is 'native', but its kernels are not built" in run.stderr
    findings = json.loads(run_pure(pure_wheel, "-m", "ingot.cli", "doctor", "--json").stdout)["findings"]
    (kernels,) = (finding for finding in findings if finding["name"] == "kernels")
    assert kernels["state"] == "warning"
    assert "compiler" in kernels["hint"]
