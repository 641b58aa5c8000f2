"""Several clients: who waits, who runs, who leaves, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingot.serve.server import Server, Settings, bound
from tests.scripted.model import scripted_model
from tests.serve.conftest import SAYS, recite
from tests.serve.running import serving, until, user

OFF = {"chat_template_kwargs": {"enable_thinking": False}}


class Gate:
    """Holds the model before each pass."""

    def __init__(self, root):
        self.root = root
        root.gate = threading.Semaphore(0)

    def open(self, passes=1):
        self.root.gate.release(passes)

    def leave_open(self):
        if self.root.gate is None:
            return
        gate, self.root.gate = self.root.gate, None
        gate.release(99)  # more than may stand before it


@pytest.fixture
def gate(fresh, reciting):
    held = Gate(reciting.engine.root)
    yield held
    held.leave_open()


def begun(fresh, said, **more):
    """A streamed request that is sent, and whose response is to be read."""
    connection = fresh.connection()
    body = {"messages": [user(said)], "stream": True, **OFF, **more}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    return connection


def is_open(fresh):
    with contextlib.suppress(OSError):
        return bool(fresh.ask("/health"))
    return False


def is_free(reciting):
    states = reciting.engine.states
    return states.tokens_held == 0 and states._slots.taken == states.snapshots


def test_who_leaves_is_ended_within_a_pass(fresh, reciting, gate):
    engine = fresh.server.service.engine
    connection = begun(fresh, "forever")
    gate.open(3)
    until(lambda: engine.passes == 3 and engine.running == 1)
    connection.sock.close()
    connection.close()
    until(lambda: fresh.server.service.open == 0)  # the server has seen it
    gate.open(1)
    until(lambda: is_free(reciting))
    assert engine.passes <= 4
    assert fresh.ask("/metrics")[1].count("ingot_disconnects_total 1\n") == 1


def test_who_leaves_before_a_whole_answer_is_ended_too(fresh, reciting, gate):
    connection = fresh.connection()
    connection.request("POST", "/v1/chat/completions", json.dumps({"messages": [user("forever")], **OFF}))
    gate.open(2)
    until(lambda: fresh.server.service.engine.running == 1)
    connection.close()
    until(lambda: fresh.server.service.open == 0)
    gate.open(1)
    until(lambda: is_free(reciting))


def test_who_leaves_while_waiting_never_runs(fresh, reciting, gate):
    engine = fresh.server.service.engine
    running = [begun(fresh, "forever", max_tokens=3) for _ in range(4)]
    until(lambda: fresh.server.service.open == 4)
    waiting = begun(fresh, "hello")
    until(lambda: fresh.server.service.open == 5)
    waiting.close()
    until(lambda: fresh.server.service.open == 4)
    gate.leave_open()
    for connection in running:
        assert b"[DONE]" in connection.getresponse().read()
    until(lambda: is_free(reciting))
    assert "ingot_requests_total" in fresh.ask("/metrics")[1]
    assert len(engine._waiting) == 0


def test_a_full_queue_says_when_to_come_back(fresh, gate):
    """Four run, two wait, the seventh is refused; when they are gone, it is not."""
    open_ = [begun(fresh, "hello") for _ in range(6)]
    until(lambda: fresh.server.service.open == 6)
    status, body, headers = fresh.ask("/v1/chat/completions", {"messages": [user("hello")]})
    assert (status, body["error"]["type"]) == (429, "rate_limit_error")
    assert int(headers["retry-after"]) > 0
    assert fresh.ask("/health")[0] == 200  # which is no question for the model
    engine = fresh.server.service.engine
    until(lambda: engine._inbox.qsize() + engine.running + engine.waiting == 6)
    gate.open(2)
    until(lambda: engine.running == 4 and engine.waiting == 2)
    told = fresh.ask("/metrics")[1]
    assert "\ningot_requests_running 4\n" in told
    assert "\nvllm:num_requests_waiting 2\n" in told
    gate.leave_open()
    for connection in open_:
        assert b"[DONE]" in connection.getresponse().read()
    assert fresh.chat("hello", **OFF)["choices"][0]["message"]["content"] == SAYS["hello"]
    assert 'ingot_rejections_total{reason="queue_full"} 1\n' in fresh.ask("/metrics")[1]


def test_a_long_prompt_does_not_stop_the_streams_of_others(fresh, reciting, gate):
    """While 1,500 tokens are read, a running answer gets a token in every pass."""
    root, engine = reciting.engine.root, fresh.server.service.engine
    stream = begun(fresh, "forever", max_tokens=40)
    gate.open(2)
    until(lambda: engine.passes == 2)
    other = begun(fresh, "\u4e2d" * 500, max_tokens=1)  # three bytes, three tokens each
    until(lambda: engine._inbox.qsize() == 1)
    gate.leave_open()
    assert b"[DONE]" in stream.getresponse().read()
    assert b"[DONE]" in other.getresponse().read()
    reading = [index for index, taken in enumerate(root.passes) if max(taken.values()) > 1 and len(taken) > 1]
    assert len(reading) > 5
    assert all(sorted(root.passes[index].values())[0] == 1 for index in reading)
    assert all(sum(taken.values()) <= 256 for taken in root.passes)


def test_a_short_prompt_does_not_wait_for_the_end_of_a_long_one(fresh, reciting, gate):
    root = reciting.engine.root
    long = begun(fresh, "\u4e2d" * 500, max_tokens=1)
    until(lambda: fresh.server.service.engine.running == 1)
    short = begun(fresh, "hello")
    until(lambda: fresh.server.service.engine._inbox.qsize() == 1)
    gate.leave_open()
    assert b"[DONE]" in short.getresponse().read()
    assert b"[DONE]" in long.getresponse().read()
    both = next(taken for taken in root.passes if len(taken) == 2)
    assert sorted(both.values())[0] < 100  # all of the short one, beside a part of the long one
    assert root.passes.index(both) <= 1


def test_answers_together_are_those_alone(served):
    said = ["hello", "unicode", "think", "nothing", "hello", "unicode"]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda one: served.chat(one, **OFF)["choices"][0]["message"]["content"], said))
    assert found == [served.chat(one, **OFF)["choices"][0]["message"]["content"] for one in said]


def test_an_answer_that_breaks_leaves_the_others_alone(fresh, reciting, monkeypatch, gate):
    """The receiver of one request fails; the other's answer is whole."""
    from ingot.receiving import ChatReceiver

    push = ChatReceiver.push

    def broken(self, token, began):
        if self.completion.usage.prompt_tokens > 40:
            raise RuntimeError("a parser on fire")
        return push(self, token, began)

    monkeypatch.setattr(ChatReceiver, "push", broken)
    good, bad = begun(fresh, "hello"), begun(fresh, "hello " * 40)
    until(lambda: fresh.server.service.open == 2)
    gate.leave_open()
    last = bad.getresponse().read()
    assert b'"error"' in last
    assert b"RuntimeError" in last
    assert b"on fire" not in last  # the log's, not the client's
    assert b"[DONE]" not in last
    assert b"[DONE]" in good.getresponse().read()
    until(lambda: is_free(reciting))
    assert fresh.ask("/health")[0] == 200


def test_a_pass_that_fails_costs_those_who_were_in_it(fresh, reciting):
    reciting.engine.root.fails = RuntimeError("a kernel on fire")
    status, body, _ = fresh.ask("/v1/chat/completions", {"messages": [user("hello")], **OFF})
    assert (status, body["error"]["type"]) == (500, "server_error")
    assert "on fire" not in body["error"]["message"]
    assert fresh.chat("hello", **OFF)["choices"][0]["message"]["content"] == SAYS["hello"]
    assert fresh.ask("/health")[0] == 200
    assert is_free(reciting)
    assert "ingot_engine_errors_total 1\n" in fresh.ask("/metrics")[1]


def test_an_engine_that_only_fails_is_given_up(fresh, reciting):
    for _ in range(3):
        reciting.engine.root.fails = RuntimeError("a kernel on fire")
        assert fresh.ask("/v1/chat/completions", {"messages": [user("hello")], **OFF})[0] == 500
    status, body, _ = fresh.ask("/health")
    assert (status, "the engine has stopped" in body["error"]["message"]) == (500, True)
    assert fresh.ask("/ready")[0] == 500
    status, body, _ = fresh.ask("/v1/chat/completions", {"messages": [user("hello")], **OFF})
    assert (status, body["error"]["message"]) == (500, fresh.server.service.engine.failure)


def test_a_pass_that_never_ends_is_told(fresh, gate):
    fresh.server.service.watchdog = 0.05
    connection = begun(fresh, "hello")
    until(lambda: fresh.ask("/health")[0] == 500)
    assert "has not ended a pass" in fresh.ask("/health")[1]["error"]["message"]
    connection.close()


def test_a_drain_finishes_what_runs_and_refuses_what_comes(fresh, gate):
    stream = begun(fresh, "hello")
    gate.open(2)
    until(lambda: fresh.server.service.engine.running == 1)
    fresh.server._loop.call_soon_threadsafe(fresh.server.end)
    until(lambda: fresh.server.service.state == "draining")
    status, body, headers = fresh.ask("/v1/chat/completions", {"messages": [user("hello")]})
    assert (status, body["error"]["message"]) == (503, "the server is stopping")
    assert int(headers["retry-after"]) > 0
    assert fresh.ask("/ready")[0] == 503
    assert fresh.ask("/health")[1] == {"status": "draining"}
    gate.leave_open()
    data = stream.getresponse().read()
    assert b"[DONE]" in data
    said = [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in said) == SAYS["hello"]
    until(lambda: fresh.server.should_exit)
    until(lambda: not is_open(fresh))


def test_while_the_model_loads(tmp_path):
    """The address answers at once: 503, and when to come back."""
    may = threading.Event()

    def load():
        may.wait(20)
        return scripted_model(tmp_path, recite)

    with serving(load, wait=False) as running:
        for path in ("/health", "/ready"):
            status, body, headers = running.ask(path)
            assert (status, body["error"]["message"]) == (503, "the model is being loaded")
            assert int(headers["retry-after"]) > 0
        assert running.ask("/v1/chat/completions", {"messages": []})[0] == 503
        assert running.ask("/v1/models")[0] == 200
        may.set()
        until(lambda: running.ask("/ready")[0] == 200)
        assert running.chat("hello", **OFF)["choices"][0]["message"]["content"] == SAYS["hello"]


def test_a_model_that_does_not_load_ends_the_server():
    def load():
        raise ValueError("there is no such model")

    server = Server(Settings(["none"]), load, lambda line: None)
    with bound("127.0.0.1", 0) as sock, pytest.raises(ValueError, match="no such model"):
        asyncio.run(server.run_on(sock))


def test_keep_alive_serves_one_after_the_other(fresh):
    connection = fresh.connection()
    for _ in range(3):
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": [user("hello")], **OFF}))
        assert json.loads(connection.getresponse().read())["choices"][0]["message"]["content"] == SAYS["hello"]
    connection.close()
