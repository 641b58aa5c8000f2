"""Agents that start at once with one system prompt: it is read once, and who waits for it has a place."""

from __future__ import annotations

import json

import pytest

from tests.engine.accounts import held
from tests.scripted.model import scripted_model
from tests.serve.running import serving, until
from tests.serve.test_many_clients import Gate, begun

LONG = "What is the world? " * 40
NAMES = ("hello", "world", "yes", "what")


@pytest.fixture(scope="module")
def reciter(tmp_path_factory):
    return scripted_model(tmp_path_factory.mktemp("scripted"), lambda prompt: "yes")


@pytest.fixture
def together(reciter):
    """Four who came at once, before the first pass, and a fifth who waits."""
    with serving(lambda: reciter, parallel=4, queue=2, cache=32 << 20, idle_prefill=False) as running:
        reciter.engine.cache.clear()
        gate, engine = Gate(reciter.engine.root), running.server.service.engine
        stream = {"stream_options": {"include_usage": True}}
        open_ = [begun(running, LONG + NAMES[0], **stream)]
        until(lambda: engine.running == 1)
        for i, name in enumerate(NAMES[1:]):
            open_.append(begun(running, LONG + name, **stream))
            until(lambda i=i: engine._inbox.qsize() == i + 1)
        open_.append(begun(running, "hello"))
        until(lambda: engine._inbox.qsize() == 4)
        yield running, gate, open_
        gate.leave_open()


def told(connection):
    """The last event of a stream."""
    lines = [line for line in connection.getresponse().read().split(b"\n\n") if line.startswith(b"data: ")]
    last = lines[-2] if lines[-1] == b"data: [DONE]" else lines[-1]
    return json.loads(last.removeprefix(b"data: "))


def test_what_agents_share_is_read_once(together, reciter):
    running, gate, open_ = together
    engine = running.server.service.engine
    gate.open(1)
    until(lambda: engine.waiting == 1)
    assert engine.running == 4
    until(lambda: len(held(engine._scheduler)) == 3)
    metrics = running.ask("/metrics")[1]
    assert "\ningot_requests_running 4\n" in metrics
    assert "\ningot_requests_waiting 1\n" in metrics
    assert 0 < engine.work_s < 60 or not engine._pace.prompt_s.value
    gate.leave_open()
    usages = [told(connection)["usage"] for connection in open_[:4]]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert cached[0] == 0
    assert all(usage["prompt_tokens"] - many < 40 for usage, many in zip(usages[1:], cached[1:], strict=True))
    assert b"[DONE]" in open_[4].getresponse().read()
    until(lambda: running.server.service.open == 0)
    assert reciter.engine.states.tokens_held == 0


def test_a_pass_that_fails_costs_those_who_read_and_not_those_who_are_held(together, reciter):
    running, gate, open_ = together
    engine = running.server.service.engine
    gate.open(1)
    until(lambda: len(held(engine._scheduler)) == 3)
    reciter.engine.root.fails = RuntimeError("a kernel on fire")
    gate.leave_open()
    assert told(open_[0])["error"]["type"] == "server_error"
    assert ["usage" in told(connection) for connection in open_[1:4]] == [True] * 3
    assert b"[DONE]" in open_[4].getresponse().read()


def test_who_is_held_may_leave_and_so_may_the_one_that_reads(together, reciter):
    running, gate, open_ = together
    engine = running.server.service.engine
    gate.open(1)
    until(lambda: len(held(engine._scheduler)) == 3)
    for connection in open_[:2]:
        connection.sock.close()
        connection.close()
    until(lambda: running.server.service.open == 3)
    gate.leave_open()
    assert ["usage" in told(connection) for connection in open_[2:4]] == [True] * 2
    assert b"[DONE]" in open_[4].getresponse().read()
    until(lambda: running.server.service.open == 0)
    assert reciter.engine.states.tokens_held == 0
