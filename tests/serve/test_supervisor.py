"""The supervisor over children that are a few lines of Python: how they end, and what is made of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ingot.serve import supervisor
from ingot.serve.address import bound
from ingot.serve.link import STUCK, Link
from ingot.serve.supervisor import Ending, Supervisor, silence_of

pytestmark = pytest.mark.skipif(not supervisor.is_possible(), reason="no supervisor on this system")

START = """
import os, signal, sys, time
listening, orders, signs = map(int, sys.argv[1].split(","))
life = len(open(sys.argv[2], "a+").read())
lives = open(sys.argv[2], "a"); lives.write("x"); lives.close()
life = os.path.getsize(sys.argv[2])
ready = lambda: os.write(signs, b"r")
alive = lambda: os.write(signs, b".")
me = os.getpid()
"""


class Lives:
    """Children that run `script` one after the other; `life` in it is 1, 2, 3, ..."""

    def __init__(self, path: Path, script: str, silence: float = 0):
        self.path = path / "lives"
        self.path.touch()
        command = [sys.executable, "-S", "-c", START + script]
        self.sock = bound("127.0.0.1", 0)
        self.supervisor = Supervisor(lambda link: [*command, str(link), str(self.path)], self.sock, silence)

    def run(self):
        with self.sock:
            return self.supervisor.run()

    def has_said(self, place):
        """Whether the child has made the file for the signal of that number."""
        return (self.path.parent / f"ready{place}").exists()

    @property
    def count(self):
        return self.path.stat().st_size


@pytest.fixture
def living(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(supervisor, "DELAY_S", 0.01)
    monkeypatch.setattr(supervisor, "LAST_WORDS_S", 0.2)
    return lambda script, silence=0: Lives(tmp_path, script, silence)


def after(may, *numbers):
    """Send this process signals, signal i when may(i)."""

    def send():
        end = time.monotonic() + 20
        for place, number in enumerate(numbers):
            while not may(place):
                assert time.monotonic() < end
                time.sleep(0.01)
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


CRASH = "ready(); os.kill(me, signal.SIGSEGV); time.sleep(9)"


def test_a_crash_loop_is_given_up(living, caplog):
    lives = living(CRASH)
    with pytest.raises(ChildProcessError, match=r"SIGSEGV.*\n.*5 times in . seconds, and it is not started again"):
        lives.run()
    assert lives.count == 5
    told = [record.getMessage() for record in caplog.records]
    assert sum("crashed in native code (SIGSEGV)" in line for line in told) == 4
    assert sum("it is started again" in line for line in told) == 4
    assert "in 0.04 s" in told[-1]


def test_crashes_that_are_long_ago_are_forgotten(living, monkeypatch):
    monkeypatch.setattr(supervisor, "WINDOW_S", 0.0)
    lives = living("if life == 8: sys.exit(0)\n" + CRASH)
    assert lives.run() == 0
    assert lives.count == 8


def test_what_a_server_said_last_is_heard(living, monkeypatch):
    """It was ready and has ended before the supervisor looks."""

    class Slow(subprocess.Popen):
        def poll(self):
            self.wait()
            return super().poll()

    monkeypatch.setattr(supervisor.subprocess, "Popen", Slow)
    lives = living("if life == 2: sys.exit(0)\n" + CRASH)
    assert lives.run() == 0
    assert lives.count == 2


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGILL, signal.SIGKILL])
def test_a_crash_before_it_was_ready_is_not_repeated(living, number):
    lives = living(f"os.kill(me, {int(number)}); time.sleep(9)")
    with pytest.raises(ChildProcessError, match="before it was ready"):
        lives.run()
    assert lives.count == 1


def test_a_server_that_says_what_is_wrong_is_not_started_again(living):
    lives = living("sys.exit(2)")
    assert lives.run() == 2
    assert lives.count == 1


def test_a_stuck_server_is_started_again(living, caplog):
    lives = living(f"ready()\nif life == 1: os._exit({STUCK})\nsys.exit(0)")
    assert lives.run() == 0
    assert lives.count == 2
    assert "no longer came round" in caplog.text


def test_a_silent_server_is_ended_and_started_again(living, caplog):
    """SIGSTOP: nothing in it can run, neither its watchdog nor a handler."""
    lives = living("ready()\nif life == 1: os.kill(me, signal.SIGSTOP)\nalive(); sys.exit(0)", silence=0.7)
    began = time.monotonic()
    assert lives.run() == 0
    assert lives.count == 2
    assert time.monotonic() - began > 0.7
    assert "no sign of life for 1 seconds" in caplog.text


def test_a_server_that_gives_signs_is_left_alone(living):
    lives = living("ready()\nfor _ in range(10): time.sleep(0.15); alive()\nsys.exit(0)", silence=0.7)
    assert lives.run() == 0
    assert lives.count == 1


FOLLOW = """
ready()
place, got = os.path.dirname(sys.argv[2]), b""
open(place + "/ready0", "w").close()
while len(got) < {orders}:
    got += os.read(orders, 1)
    open(place + "/ready1", "w").close()
open(place + "/got", "wb").write(got)
{then}
"""


def test_the_first_signal_finishes(living):
    lives = living(FOLLOW.format(orders=1, then="sys.exit(0)"))
    after(lives.has_said, signal.SIGTERM)
    assert lives.run() == 0
    assert (lives.path.parent / "got").read_bytes() == b"f"


def test_the_second_signal_stops(living):
    lives = living(FOLLOW.format(orders=2, then="sys.exit(130)"))
    after(lives.has_said, signal.SIGINT, signal.SIGINT)
    assert lives.run() == 130
    assert (lives.path.parent / "got").read_bytes() == b"fs"


def test_who_does_not_stop_is_killed(living, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_S", 0.2)
    lives = living(FOLLOW.format(orders=2, then="time.sleep(99)"))
    after(lives.has_said, signal.SIGINT, signal.SIGINT)
    assert lives.run() == 130


def test_a_crash_while_it_finishes_is_told(living):
    lives = living(FOLLOW.format(orders=1, then="os.kill(me, signal.SIGBUS); time.sleep(9)"))
    after(lives.has_said, signal.SIGTERM)
    with pytest.raises(ChildProcessError, match=r"SIGBUS.*\n.*finishing its last requests"):
        lives.run()
    assert lives.count == 1


def test_a_signal_ends_the_wait_for_the_next_start(living, monkeypatch, caplog):
    monkeypatch.setattr(supervisor, "DELAY_S", 30)
    lives = living(CRASH)
    after(lambda _: "in 30 s" in caplog.text, signal.SIGTERM)
    began = time.monotonic()
    assert lives.run() == 0
    assert time.monotonic() - began < 15
    assert lives.count == 2


def test_the_server_ends_with_its_supervisor(tmp_path):
    """kill -9 of the parent: a child that is stopped goes too."""
    link = "from ingot.serve.link import Link; import os, signal; Link(0, 0, os.open('/dev/null', 1)).hold()"
    child = f"{link}; print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        number = int(process.stdout.readline())
        end = time.monotonic() + 10
        while "T" not in state(number):
            assert time.monotonic() < end
            time.sleep(0.01)
        process.kill()
    while state(number) not in ("", "Z"):
        assert time.monotonic() < end
        time.sleep(0.01)


def state(number):
    """The letter of a process's state, "" for one that is gone (Linux)."""
    if sys.platform != "linux":
        pytest.skip("signals at a parent's death are Linux'")
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize(
    ("code", "no_memory", "sentence"),
    [
        (-signal.SIGKILL, True, "for want of memory\nhint: a smaller"),
        (-signal.SIGKILL, False, "killed (SIGKILL), by someone"),
        (-signal.SIGILL, False, "does not have (SIGILL); please report"),
        (-signal.SIGFPE, False, "native code (SIGFPE); please report"),
        (-signal.SIGTERM, False, "ended by Terminated"),
        (3, False, "exit code 3"),
    ],
)
def test_how_it_ended_is_said(code, no_memory, sentence):
    assert sentence in str(Ending(code, True, False, no_memory))


def test_a_link_is_a_word():
    assert Link.of(str(Link(3, 5, 8))) == Link(3, 5, 8)


def test_the_silence_that_is_allowed():
    assert (silence_of(None), silence_of(0), silence_of(3), silence_of(300)) == (120, 0, 10, 300)
