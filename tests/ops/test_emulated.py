"""The kernels of AArch64, cross-compiled and run under emulation, give the bits of this machine's. For correctness
only: an emulator says nothing about speed. `pytest -m emulated` (Debian: g++-aarch64-linux-gnu, qemu-user)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.emulated, pytest.mark.timeout(1800)]

NATIVE = Path(__file__).resolve().parents[2] / "native"
HOST = ["context", "dispatch", "threads", "choice", "portable/pack", "portable/rotary", "portable/read", "isa/scalar"]
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-fno-fast-math", "-I", str(NATIVE)]
CROSS = "aarch64-linux-gnu-g++"


def build(compiler: str, place: Path, units: dict[str, list[str]], *more: str) -> Path:
    """The digest program, made of `units`: a source under native/ without .cpp, and its own flags."""
    objects = []
    for name, own in units.items():
        objects.append(place / (name.replace("/", "_") + ".o"))
        source = NATIVE / f"{name}.cpp"
        subprocess.run([compiler, *FLAGS, *more, *own, "-c", str(source), "-o", str(objects[-1])], check=True)
    program = place / "digest"
    subprocess.run([compiler, "-static", "-pthread", *map(str, objects), "-o", str(program)], check=True)
    return program


def digests(words: list[str]) -> dict[str, list[str]]:
    """Instruction set -> its lines, in order."""
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        isa, rest = line.split(" ", 1)
        found.setdefault(isa, []).append(rest)
    return found


def test_neon_gives_the_bits_of_the_definition(tmp_path):
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if shutil.which(CROSS) is None or emulator is None:
        pytest.skip(f"{CROSS} and qemu-aarch64 are needed")
    here, there = tmp_path / "host", tmp_path / "arm"
    here.mkdir()
    there.mkdir()
    common = {"test/digest": [], **{name: [] for name in HOST}}
    host = digests([str(build("g++", here, common))])
    neon = {"isa/neon": [], "isa/neon_dotprod": ["-march=armv8.2-a+dotprod"]}
    scalar = {"isa/scalar": ["-fno-tree-vectorize"]}  # as CMakeLists.txt has it
    program = build(CROSS, there, common | neon | scalar, "-DINGOT_ARM")
    arm = digests([emulator, "-cpu", "max", str(program)])
    assert set(arm) == {"neon_dotprod", "neon", "scalar"}
    assert len(host["scalar"]) == 35
    for isa, lines in arm.items():
        assert lines == host["scalar"], isa
