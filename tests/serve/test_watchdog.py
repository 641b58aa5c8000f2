"""A pass that never ends, a thread that has died, a loop that stands still: what is told, and to whom."""

from __future__ import annotations

import json
import logging
import re
import threading
import time

import pytest

from ingot.serve import server as server_module
from ingot.serve import watchdog as watchdog_module
from ingot.serve.link import LOADED, STUCK
from ingot.serve.watchdog import Stillness, Watchdog, write_stacks
from tests.serve.conftest import SAYS
from tests.serve.running import serving, until, user

OFF = {"chat_template_kwargs": {"enable_thinking": False}}


class Exits:
    """In place of `os._exit`, and a supervisor's link that is never told anything."""

    def __init__(self, monkeypatch):
        self.codes, self.signs = [], []
        monkeypatch.setattr(server_module.os, "_exit", self.codes.append)
        monkeypatch.setattr(server_module, "GOODBYE_S", 0.05)

    def sign(self, what):
        self.signs.append(what)

    def obey(self, act):
        pass


@pytest.fixture
def exits(monkeypatch):
    return Exits(monkeypatch)


def held(reciting):
    reciting.engine.root.gate = threading.Semaphore(0)


def let_go(reciting):
    gate, reciting.engine.root.gate = reciting.engine.root.gate, None
    gate.release(99)


def test_a_pass_that_never_ends_ends_a_supervised_server(reciting, exits, caplog):
    caplog.set_level(logging.CRITICAL)
    with serving(lambda: reciting, watchdog=2, link=exits) as running:
        until(lambda: exits.signs == [LOADED])
        held(reciting)
        connection = running.connection()
        body = {"messages": [user("hello")], **OFF}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        assert response.status == 503
        assert "has not ended a pass for" in json.loads(response.read())["error"]["message"]
        assert int(response.getheader("retry-after")) > 0
        until(lambda: exits.codes)
        assert running.ask("/health")[0] == 500
        let_go(reciting)
    assert exits.codes == [STUCK]
    told = re.search(r"the engine has not ended a pass for (\d+) seconds; all threads:", caplog.text)
    assert told
    assert int(told[1]) >= 2  # as long as it took to be seen


def test_the_supervisor_knows_first_that_it_is_ready(reciting, exits):
    """Who reads "ready" and kills the server at once has killed one that was."""
    known = []
    with serving(lambda: reciting, link=exits, told=lambda line: known.append((line[:6], *exits.signs))):
        until(lambda: len(known) == 2)
    assert known[1] == ("ready:", LOADED)


def test_without_a_supervisor_it_may_go_on(reciting, caplog):
    with serving(lambda: reciting, watchdog=2) as running:
        held(reciting)
        connection = running.connection()
        body = {"messages": [user("hello")], **OFF}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        until(lambda: "all threads" in caplog.text)
        until(lambda: running.ask("/health")[0] == 500)
        let_go(reciting)
        message = json.loads(connection.getresponse().read())["choices"][0]["message"]
        assert message["content"] == SAYS["hello"]
        assert running.ask("/health")[0] == 200
    assert caplog.text.count("all threads") == 1


def test_an_engine_that_is_given_up_ends_a_supervised_server(reciting, exits):
    with serving(lambda: reciting, watchdog=2, link=exits) as running:
        for _ in range(3):
            reciting.engine.root.fails = RuntimeError("a kernel on fire")
            assert running.ask("/v1/chat/completions", {"messages": [user("hello")], **OFF})[0] == 500
        until(lambda: exits.codes)
    assert exits.codes[0] == STUCK


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_of_the_engine_is_noticed(reciting, exits):
    with serving(lambda: reciting, watchdog=0.2, link=exits) as running:
        running.server.service.engine._inbox.put(lambda: (_ for _ in ()).throw(SystemExit))
        until(lambda: exits.codes)
        status, body, _ = running.ask("/health")
        assert (status, "has not ended a pass" in body["error"]["message"]) == (500, True)


def test_a_quiet_server_is_left_alone(reciting, exits):
    with serving(lambda: reciting, watchdog=1, link=exits) as running:
        time.sleep(1.6)
        assert running.ask("/health")[0] == 200
    assert exits.codes == []


def test_no_limit(reciting):
    with serving(lambda: reciting, watchdog=0) as running:
        held(reciting)
        connection = running.connection()
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": [user("hello")], **OFF}))
        until(lambda: running.server.service.engine.busy)
        time.sleep(0.05)
        assert running.ask("/health")[0] == 200
        let_go(reciting)
        assert connection.getresponse().status == 200


def test_a_loop_that_stands_still_is_noticed():
    found = threading.Event()
    dog = Watchdog({"the server has answered nobody": lambda: 1}, 0.05, lambda sentence: found.set())
    dog.start()
    assert found.wait(10)
    dog.stop()


def test_time_asleep_is_not_stillness(monkeypatch):
    """Ctrl-Z and `fg` an hour later: nobody is ended for it."""
    clock = iter([0.0, 1.0, 2.0, 3602.0, 3603.0])
    monkeypatch.setattr(watchdog_module.time, "monotonic", lambda: next(clock))
    still = Stillness()
    assert [still.look("same") for _ in range(4)] == [0.0, 1.0, 3.0, 4.0]


def test_stacks_are_written_where_stderr_is_no_file(capsys):
    write_stacks()


def test_where_everyone_stands(capfd):
    write_stacks()
    assert "test_where_everyone_stands" in capfd.readouterr().err
