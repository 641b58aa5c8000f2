"""States on disk behind a server: they are written when their time has come, and what they hold is not seen again."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import ingot
from ingot.engine.patience import PATIENCE_S
from ingot.serve.engine_thread import EngineThread
from tests.api.small_model import write_seeing_model
from tests.serve.running import serving, until
from tests.serve.test_pictures_served import messages

pytest.importorskip("ingot.ops.native", exc_type=ImportError)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeing_model(tmp_path_factory.mktemp("seeing"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the tower is given."""
    found = Counter[str]()
    encode = ingot.engine.eyes.Eyes._encode

    def noted(self: Any, visual: Any, pause: Any) -> Any:
        found[visual.digest] += 1
        return encode(self, visual, pause)

    monkeypatch.setattr(ingot.engine.eyes.Eyes, "_encode", noted)
    return found


def loaded(model: Path, cache: Path) -> Any:
    return ingot.load(model, cache=cache, prefix_disk=True, threads=1)


BODY = {"messages": [*messages(1, 2)], "max_tokens": 3, "seed": 3, "logprobs": True, "temperature": 1}
BODY["messages"][0]["content"].append({"type": "text", "text": "what is this? " * 12})


def asked(running: Any) -> list[float]:
    status, answer, _ = running.ask("/v1/chat/completions", BODY)
    assert status == 200, answer
    return [one["logprob"] for one in answer["choices"][0]["logprobs"]["content"]]


def test_pictures_that_the_disk_knows_are_not_encoded_again(model: Path, tmp_path: Path, seen: Counter[str]) -> None:
    with serving(lambda: loaded(model, tmp_path)) as running:
        first = asked(running)
    assert len(seen) == seen.total() == 2
    with serving(lambda: loaded(model, tmp_path)) as running:
        assert asked(running) == first
        assert running.server.service.engine.engine.cache.disk.hits == 1
    assert seen.total() == 2


def test_pictures_that_the_disk_cannot_give_are_encoded(
    model: Path, tmp_path: Path, seen: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda: loaded(model, tmp_path)) as running:
        first = asked(running)
    made = loaded(model, tmp_path)
    monkeypatch.setattr(made.engine.cache.disk.journal, "read", lambda record, rows: False)
    with serving(lambda: made) as running:
        assert asked(running) == first
        assert made.engine.cache.disk.hits == 0
    assert seen.total() == 4


def test_a_turns_state_is_written_in_time_and_nobody_spins(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingot.engine.patience.PATIENCE_S", 2.0)
    turns, turn = [], EngineThread._turn

    def counted(self: EngineThread) -> None:
        turns.append(time.monotonic())
        turn(self)

    monkeypatch.setattr(EngineThread, "_turn", counted)
    assert PATIENCE_S > 2
    made = loaded(model, tmp_path)
    disk = made.engine.cache.disk
    with serving(lambda: made) as running:
        began = time.monotonic()
        asked(running)
        answered = time.monotonic()
        until(lambda: disk.due_s is not None and not running.server.service.open)
        waiting = disk.journal.held[0]
        until(lambda: disk.due_s is None and disk.journal.flush(5))
        assert disk.journal.held[0] > waiting
        assert time.monotonic() - began >= 2
        assert sum(at > answered for at in turns) < 20
