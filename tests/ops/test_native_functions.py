"""exp, sigmoid, softplus, sin and cos against the C library in double: the C++ test, where it was built.

Build it with `cmake -S . -B build/dev -DINGOT_TESTS=ON && cmake --build build/dev`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "build" / "dev" / "test_functions"


@pytest.mark.skipif(not PROGRAM.exists(), reason="test_functions is not built: cmake -DINGOT_TESTS=ON")
def test_functions_are_within_their_ulps() -> None:
    result = subprocess.run([PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout
