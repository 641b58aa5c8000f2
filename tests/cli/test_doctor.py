"""`ingot doctor`: every corner is looked at, what is broken decides the exit code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ingot
from ingot.cli import machine, main
from ingot.cli.machine import Finding

CORNERS = {
    "ingot",
    "python",
    "platform",
    "kernels",
    "packages",
    "torch",
    "video",
    "memory",
    "processors",
    "hub cache",
    "nugget",
}


class Sage:
    """A model with one answer to everything."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def chat(self, messages: Any, **settings: Any) -> Any:
        assert settings["temperature"] == 0
        return SimpleNamespace(content=self.answer)


def _with_answer(monkeypatch: pytest.MonkeyPatch, answer: str) -> list[str]:
    asked: list[str] = []

    def load(*, backend: str) -> Sage:
        asked.append(backend)
        return Sage(answer)

    monkeypatch.setattr(ingot, "load", load, raising=False)
    return asked


def _report(capsys: pytest.CaptureFixture[str]) -> dict[str, list[dict[str, Any]]]:
    record = json.loads(capsys.readouterr().out)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in record["findings"]:
        found.setdefault(finding["name"], []).append(finding)
    return found


def test_all_is_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = _with_answer(monkeypatch, "17 + 25 = 42.")
    assert main(["doctor", "--json"]) == 0
    found = _report(capsys)
    assert set(found) == CORNERS
    assert "reference" in asked
    assert [finding["data"]["backend"] for finding in found["nugget"]] == asked
    assert found["memory"][0]["data"]["total"] > 2**28
    assert main(["doctor"]) == 0
    assert "ok   nugget      reference: 17 + 25 = 42" in capsys.readouterr().out


def test_a_wrong_answer_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = _with_answer(monkeypatch, "41")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL nugget      reference: What is 17 + 25? '41', but 42 is right" in out
    assert f"{len(asked)} thing" in out


def test_a_backend_that_raises_is_broken_and_the_others_are_still_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*, backend: str) -> Sage:
        if backend == "reference":
            raise ValueError("the weights are gone\nhint: install again")
        return Sage("42")

    monkeypatch.setattr(ingot, "load", load, raising=False)
    assert main(["doctor", "--json"]) == 1
    states = {finding["data"]["backend"]: finding for finding in _report(capsys)["nugget"]}
    assert states["reference"]["state"] == "failure"
    assert (states["reference"]["text"], states["reference"]["hint"]) == (
        "reference: the weights are gone",
        "install again",
    )
    assert all(finding["state"] == "ok" for name, finding in states.items() if name != "reference")


def test_missing_kernels_are_a_loud_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _with_answer(monkeypatch, "42")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ingot._native" else real(name))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "WARN kernels     the native kernels are NOT BUILT: numpy computes, 10 to 100 times slower" in out
    assert "-> install a C++20 compiler" in out
    assert out.endswith("Works, with a warning.\n")


def test_a_missing_package_is_broken_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NEEDED", ("numpy", "no_such_package"))
    finding = next(iter(machine.packages()))
    assert finding.state == "failure"
    assert "missing: no_such_package" in finding.text
    assert finding.hint == "pip install no_such_package"


def test_a_corner_that_cannot_be_looked_at_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resources() -> list[Finding]:
        raise OSError("no /proc here")

    _with_answer(monkeypatch, "42")
    monkeypatch.setattr(machine, "resources", resources)
    assert main(["doctor", "--json"]) == 1
    found = _report(capsys)
    assert found["resources"][0]["text"] == "cannot be looked at: OSError: no /proc here"
    assert "nugget" in found


def test_the_memory_limit_of_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUPS", (str(tmp_path / "{}"),))
    assert machine._memory()[2] == 0
    (tmp_path / "memory.max").write_text("268435456\n")
    assert machine._memory()[2] == 2**28
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._memory()[2] == 0
