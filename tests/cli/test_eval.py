"""`ingot eval`: the measurements arrive as a table, greedy and in the mode asked for."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

import ingot
from ingot.cli import main


class Calculator:
    """Reads two numbers out of any wording; sums that need a carry beyond 900 it gets wrong."""

    cache_file = None

    def __init__(self) -> None:
        self.thinking: list[bool | None] = []

    def chat(self, messages: Any, thinking: bool | None = None, **options: Any) -> Any:
        assert options["temperature"] == 0
        self.thinking.append(thinking)
        numbers = [int(number) for number in re.findall(r"\d+", messages[-1]["content"])]
        return SimpleNamespace(content=str(sum(numbers)) if sum(numbers) < 900 else "\x1b[2J")


@pytest.fixture
def calculator(monkeypatch: pytest.MonkeyPatch) -> Calculator:
    model = Calculator()
    monkeypatch.setattr(ingot, "load", lambda *_, **__: model, raising=False)
    return model


@pytest.mark.parametrize("think", [[], ["--no-think"], ["--think"]])
def test_arithmetic_in_one_mode(think: list[str], calculator: Calculator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--task", "arithmetic", "--limit", "40", "--json", *think]) == 0
    record = json.loads(capsys.readouterr().out)
    (score,) = record["scores"]
    assert calculator.thinking == [think == ["--think"]] * 40
    assert score["total"] == 40
    assert score["kind"] == ("thinking" if think == ["--think"] else "direct") + ": all sums"
    assert 0 < score["right"] < 40
    assert score["accuracy"] == score["right"] / 40
    assert len(score["mistakes"]) == 40 - score["right"]
    assert score["interval"][0] < score["accuracy"] < score["interval"][1]


def test_the_same_seed_asks_the_same(calculator: Calculator, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("3", "3", "4"):
        assert main(["eval", "--task", "arithmetic", "--limit", "20", "--seed", seed, "--json"]) == 0
        outputs.append(json.loads(capsys.readouterr().out)["scores"])
    assert outputs[0] == outputs[1] != outputs[2]


def test_the_card_of_the_nugget_measures_both_modes(calculator: Calculator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "nugget", "--limit", "10"]) == 0
    out = capsys.readouterr().out
    assert "| direct: all sums |" in out
    assert "| thinking: all sums |" in out
    assert "mistakes, for example:" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "chess"], "argument --task: invalid choice: 'chess'"),
        (["--limit", "9"], "--limit is 9; at least 10 questions"),
        (["--think"], "--think and --no-think are for --task arithmetic"),
    ],
)
def test_bad_input(words: list[str], told: str, calculator: Calculator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *words]) == 2
    assert told in capsys.readouterr().err
