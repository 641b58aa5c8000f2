"""The kernels with a compiler's checks built in: what they read and write, and which threads do it at the same time.
`pytest -m sanitized` builds them in build/ and runs their tests (gcc on Linux; half an hour the first time)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.sanitized, pytest.mark.timeout(7200)]

ROOT = Path(__file__).resolve().parents[2]
KERNELS = [
    "tests/ops",
    "tests/model/test_fused.py",
    "tests/model/test_exact.py",
    "tests/model/test_drafts.py",
    "tests/engine/test_drafts.py",
]


def built(name: str, sanitizers: str, target: str, *options: str) -> Path:
    """The folder build/`name`, with `target` made; what is up to date there is kept."""
    place = ROOT / "build" / name
    more = f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1", *options
    subprocess.run(["cmake", "-S", ROOT, "-B", place, f"-DINGOT_SANITIZE={sanitizers}", *more], check=True)
    subprocess.run(["cmake", "--build", place, "--parallel", str(os.cpu_count()), "--target", target], check=True)
    return place


def runtime(name: str) -> str:
    return subprocess.run(
        ["c++", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_memory(tmp_path: Path) -> None:
    """No array is left, nothing undefined is computed; Python itself is not built so, hence the libraries first."""
    (module,) = built("asan", "address,undefined", "_native").glob("_native*")
    shutil.copytree(ROOT / "src/ingot", tmp_path / "ingot", ignore=shutil.ignore_patterns("_native*", "__pycache__"))
    shutil.copy(module, tmp_path / "ingot")
    options = {
        "LD_PRELOAD": ":".join(map(runtime, ("libasan.so", "libubsan.so", "libstdc++.so"))),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves some
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(tmp_path),
    }
    settings = "-x", "--capture=sys", "-p", "no:cacheprovider"  # what a sanitizer says goes past Python
    places = "-o", f"pythonpath={tmp_path} . tests/store", "-o", "timeout=1800"
    words = [sys.executable, "-m", "pytest", *settings, *places, *KERNELS]
    subprocess.run(words, check=True, cwd=ROOT, env=os.environ | options)


def test_threads() -> None:
    """No two threads touch the same memory unless in order, and four give the bits of one."""
    program = built("tsan", "thread", "test_digest", "-DINGOT_PYTHON=OFF", "-DINGOT_TESTS=ON") / "test_digest"
    one, four = (subprocess.run([program, n], check=True, capture_output=True).stdout for n in ("1", "4"))
    assert one
    assert one == four
