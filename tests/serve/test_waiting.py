"""Who is next, how long it will take, and who is told to come back when."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.engine import Request
from ingot.serve.pace import MOST_S, Mean, Pace, retry_after
from ingot.serve.waiting import STEP_S, Waiting
from tests.serve.running import serving, until, user
from tests.serve.test_many_clients import Gate, begun

OFF = {"chat_template_kwargs": {"enable_thinking": False}}


@dataclass(eq=False)
class Job:
    request: Request


@dataclass(eq=False)
class Waits:
    name: int
    job: Job
    due: float = 0.0


def waits(name, priority):
    return Waits(name, Job(Request([1], priority=priority)))


def order(tickets):
    """Names in the order in which they are served who came at (name, priority, second)."""
    waiting = Waiting()
    for name, priority, came in tickets:
        waiting.add(waits(name, priority), came)
    return [ticket.name for ticket in waiting]


def test_equals_go_as_they_came():
    assert order([(0, 0, 1.0), (1, 0, 1.0), (2, 0, 2.0), (3, 0, 2.0)]) == [0, 1, 2, 3]


def test_lower_goes_first():
    assert order([(0, 0, 1.0), (1, 5, 1.1), (2, -3, 1.2), (3, 0, 1.3)]) == [2, 0, 3, 1]


@given(st.lists(st.tuples(st.integers(-100, 100), st.floats(0, 5)), max_size=60), st.integers(-100, 100))
def test_nobody_starves(others, priority):
    """Whoever has waited STEP_S times the steps between them goes before all that come."""
    later = [(i + 1, better, 200 * STEP_S + 1 + after) for i, (better, after) in enumerate(others)]
    assert order([(0, priority, 0.0), *later])[0] == 0


def test_one_may_leave():
    waiting, tickets = Waiting(), [waits(i, 0) for i in range(3)]
    for ticket in tickets:
        waiting.add(ticket, 0.0)
    waiting.remove(tickets[1])
    waiting.remove(tickets[1])
    assert [ticket.name for ticket in waiting] == [0, 2]
    assert (len(waiting), tickets[0] in waiting, tickets[1] in waiting) == (2, True, False)
    for ticket in waiting:  # which may leave while one looks
        waiting.remove(ticket)
    assert not len(waiting)


def test_a_priority_over_http(fresh, reciting):
    gate = Gate(reciting.engine.root)
    engine = fresh.server.service.engine
    running = [begun(fresh, "forever", max_tokens=9) for _ in range(4)]
    until(lambda: engine._inbox.qsize() + engine.running + engine.waiting == 4)
    gate.open(1)
    until(lambda: engine.running == 4)
    late = [begun(fresh, said, priority=priority) for said, priority in (("hello", 3), ("unicode", -3))]
    until(lambda: engine._inbox.qsize() == 2)
    gate.open(1)
    until(lambda: engine.waiting == 2)
    assert [ticket.job.request.priority for ticket in engine._waiting] == [-3, 3]
    gate.leave_open()
    assert all(b"[DONE]" in connection.getresponse().read() for connection in [*running, *late])


@pytest.mark.parametrize("value", [101, -101, 1.0, "high", True])
def test_priorities_are_bounded(served, value):
    body = {"messages": [user("hello")], "priority": value}
    status, answer, _ = served.ask("/v1/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, "priority")
    assert "a whole number from -100 to 100" in answer["error"]["message"]


def test_the_mean_follows():
    mean = Mean()
    mean.add(10)
    assert mean.value == 10
    for _ in range(40):
        mean.add(2)
    assert mean.value == pytest.approx(2, abs=0.01)


def test_the_pace():
    """Two passes of 3 and 1 seconds read 400 tokens; a pass with answers alone takes half a second."""
    pace = Pace()
    pace.passed(3.0, reads=True), pace.passed(1.0, reads=True), pace.read(400)
    pace.passed(0.5, reads=False), pace.answered(20)
    assert pace.seconds(300, 1000, 1, 1) == pytest.approx(300 * 0.01 + 20 * 0.5)
    assert pace.seconds(0, 8, 3, 2) == pytest.approx(3 * 8 * 0.5 / 2)
    pace.passed(9.0, reads=True), pace.read(0)  # a prompt that was cached whole
    pace.passed(1.0, reads=True), pace.read(100)
    assert pace.seconds(100, 1, 0, 1) == pytest.approx(1.0)


def test_when_to_come_back():
    assert retry_after(0.0, 7, 0, 5) == 5
    assert retry_after(70.0, 7, 0, 5) == 10
    assert retry_after(70.0, 7, 2, 5) == 30
    assert retry_after(0.01, 7, 0, 5) == 1
    assert retry_after(1e9, 7, 2, 5) == MOST_S


def test_a_full_server_says_when_as_it_has_measured(reciting):
    """Each who is refused is told a later time, until places become free."""
    with serving(lambda: reciting, parallel=1, queue=1) as running:
        assert running.chat("hello", **OFF)["choices"]
        engine = running.server.service.engine
        assert 0 < engine._pace.prompt_s.value < 1
        assert 0 < engine._pace.pass_s.value < 1
        assert engine._pace.answer.value > 10
        engine._pace.prompt_s.value, engine._pace.pass_s.value, engine._pace.answer.value = 0.1, 1.0, 10.0
        gate = Gate(reciting.engine.root)
        open_ = [begun(running, "hello") for _ in range(2)]
        until(lambda: engine.running == 1 and engine._inbox.qsize() + engine.waiting == 1)
        gate.open(1)
        until(lambda: engine.waiting == 1)
        tokens = engine._waiting._tickets[0].unread
        told = [int(running.ask("/v1/chat/completions", {"messages": [user("hello")]})[2]["retry-after"]) for _ in "12"]
        assert told[0] == pytest.approx((2 * 10 * 1.0 + 2 * tokens * 0.1) / 2, abs=3)
        assert told[1] == pytest.approx(2 * told[0], abs=2)
        gate.leave_open()
        assert all(b"[DONE]" in connection.getresponse().read() for connection in open_)
        until(lambda: running.server.service.open == 0)
        assert running.server.service.refused == 0
        assert json.dumps(engine.work_s) == "0"


CUT = [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Drip: "]


@pytest.mark.parametrize("sent", CUT)
def test_who_sends_nothing_or_drips_is_left(reciting, monkeypatch, sent):
    """Also after an answer on the same connection."""
    monkeypatch.setattr("ingot.serve.protocol.most", lambda name: 0.2 if name == "head time" else 10)
    with serving(lambda: reciting) as running:
        for first in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            connection = running.connection()
            connection.connect()
            connection.sock.sendall(first)
            if first:
                whole = b""
                while not whole.endswith(b"}"):
                    whole += connection.sock.recv(4096)
                assert whole.startswith(b"HTTP/1.1 200")
            for byte in sent:
                connection.sock.sendall(bytes([byte]))
            assert connection.sock.recv(4096) == b""
            connection.close()


def test_a_long_answer_is_not_cut_by_that(fresh, reciting, monkeypatch):
    monkeypatch.setattr("ingot.serve.protocol.most", lambda name: 0.1 if name == "head time" else 10)
    gate = Gate(reciting.engine.root)
    connection = begun(fresh, "hello")
    until(lambda: fresh.server.service.open == 1)
    time.sleep(0.3)
    gate.leave_open()
    assert b"[DONE]" in connection.getresponse().read()


def test_connections_are_bounded(reciting, monkeypatch):
    monkeypatch.setattr("ingot.serve.protocol.most", lambda name: 3 if name == "sockets" else 10)
    with serving(lambda: reciting) as running:
        idle = [running.connection() for _ in range(3)]
        for connection in idle:
            connection.connect()
        until(lambda: len(running.server.server_state.connections) == 3)
        with pytest.raises(ConnectionError):
            running.ask("/health")
        idle[0].close()
        until(lambda: len(running.server.server_state.connections) == 2)
        assert running.ask("/health")[0] == 200
