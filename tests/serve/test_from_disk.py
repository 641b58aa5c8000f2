"""The engine's thread while something comes from disk, its turns made by hand: who waits, and what a failure costs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ingot.engine import Mark, Request
from ingot.serve import engine_thread
from ingot.serve.engine_thread import EngineThread
from ingot.serve.plan import Plan
from ingot.serve.tickets import Ended, Failed, Ticket

pytest.importorskip("ingot.ops.native", exc_type=ImportError)

from tests.engine.test_disk import TEXT, Clock, Start, answer, asked, clock, start

__all__ = ["clock", "start"]


class Receiver:
    """Wants every token of an answer."""

    def __init__(self) -> None:
        self.completion = SimpleNamespace(logprobs=[], usage=SimpleNamespace(completion_tokens=0))
        self.done = False

    def push(self, token: Any, began: float) -> list[int]:
        self.done = token.last
        return [token.id]


class Box:
    """What a client is sent."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def post(self, events: Any) -> None:
        self.events += events

    def has(self, kind: type) -> bool:
        return any(isinstance(event, kind) for event in self.events)


class Thread(EngineThread):
    """A record of the disk at each turn."""

    def __init__(self, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_thread, "SLICE_S", 0.0)
        budget = made.cache.budget
        super().__init__(SimpleNamespace(engine=made), Plan(4, 2000, 0, None, 8))  # type: ignore[arg-type]
        self._reserve()
        made.cache.budget = max(budget, made.cache.budget)

    def ask(self, request: Request) -> Box:
        box, receivers = Box(), [Receiver() for _ in range(request.n)]
        self.submit(Ticket(SimpleNamespace(request=request), receivers, box))  # type: ignore[arg-type]
        return box

    def turn(self) -> None:
        self._read_inbox()
        self._go_on()


def broken(*_: Any) -> None:
    raise RuntimeError("broken")


def test_an_engine_that_fails_is_given_up_although_the_disk_works(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(start(), asked(TEXT, Mark(590, "turn")))
    made = start()
    thread = Thread(made, monkeypatch)
    monkeypatch.setattr(made, "forward", broken)
    for _ in range(engine_thread.CRASHES):
        assert not thread.failure
        box = thread.ask(asked(TEXT))
        while not box.has(Failed):
            thread.turn()
        made.cache.clear()  # others' states took the room
    assert thread.failure


def test_who_does_not_fit_yet_survives_a_pass_that_fails(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = start()
    made.states.prepare(12, 12)
    thread = Thread(made, monkeypatch)
    boxes = [thread.ask(asked(np.arange(500) % length, max_tokens=30)) for length in (90, 80)]
    thread.turn()
    assert (thread.running, thread._scheduler.running) == (2, 1)
    with monkeypatch.context() as patch:
        patch.setattr(made, "forward", broken)
        thread.turn()
    while not boxes[1].has(Ended):
        thread.turn()
    assert [box.has(Failed) for box in boxes] == [True, False]


def test_who_cannot_be_opened_costs_nobody_else(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = start()
    thread = Thread(made, monkeypatch)
    running = thread.ask(asked([1, 2, 3], max_tokens=60))
    thread.turn()
    with monkeypatch.context() as patch:
        patch.setattr(made.states, "open", broken)
        for _ in range(2 * engine_thread.CRASHES):
            box = thread.ask(asked(TEXT[:100]))
            thread.turn()
            assert box.has(Failed)
    while not running.has(Ended):
        thread.turn()
    assert not running.has(Failed)
    assert not thread.failure


def test_a_step_that_fails_for_no_reason_of_anybody_is_counted(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = start()
    thread = Thread(made, monkeypatch)
    box = thread.ask(asked([1, 2, 3], max_tokens=60))
    thread.turn()
    monkeypatch.setattr(thread._scheduler, "_parts", broken)
    for _ in range(engine_thread.CRASHES):
        assert not thread.failure
        thread.turn()
    assert thread.failure
    assert box.has(Failed)


def test_a_disk_that_fails_costs_nobody_an_answer(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(start(), asked(TEXT, Mark(590, "turn")))
    made = start()
    thread = Thread(made, monkeypatch)
    boxes = [thread.ask(asked([1, 2, 3], max_tokens=60))]
    thread.turn()
    boxes.append(thread.ask(asked(TEXT)))
    thread.turn()
    boxes.append(thread.ask(asked(np.r_[TEXT[:595], 4, 5])))
    thread.turn()
    monkeypatch.setattr(made.cache.disk.journal, "read", broken)
    while not all(box.has(Ended) for box in boxes):
        thread.turn()
    assert not any(box.has(Failed) for box in boxes)


def test_nobody_starves_behind_what_comes(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = start()
    for n in range(30):
        answer(made, asked(np.r_[n, TEXT[:200]], Mark(190, "turn")))
    made = start()
    thread, now = Thread(made, monkeypatch), 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    boxes = [thread.ask(asked(np.r_[0, TEXT[:200]], max_tokens=3))]
    thread.turn()
    late = thread.ask(asked([1, 2, 3], priority=1, max_tokens=3))
    while not late.has(Ended):
        now += 1.0
        while thread.waiting < 2:
            boxes.append(thread.ask(asked(np.r_[len(boxes), TEXT[:200]], max_tokens=3)))
            thread._read_inbox()
        thread.turn()
    assert now < 1030, "a step of priority counts as ten seconds"


def test_what_comes_is_not_the_speed_of_reading(start: Start, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    answer(start(), asked(TEXT, Mark(590, "turn")))
    made = start()
    thread = Thread(made, monkeypatch)
    clock.takes(100.0, made.cache.disk.journal, "read")
    clock.takes(1.0, made, "forward")
    stream = thread.ask(asked([1, 2, 3], max_tokens=40))
    thread.turn()
    comes = thread.ask(asked(TEXT))
    while not (stream.has(Ended) and comes.has(Ended)):
        thread.turn()
    assert thread._pace.prompt_s.value == pytest.approx(0.8 / 3 + 0.2 / 10), "one pass for 3 tokens, one for 10"
    assert thread._pace.pass_s.value == pytest.approx(1.0)
