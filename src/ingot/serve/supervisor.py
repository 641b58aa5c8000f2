"""A small parent that outlives crashes of the server: it holds the socket, starts the server as a child, and starts it
again when native code, the system or a pass that never ends has taken it away.

It speaks no HTTP. While there is no child, connections wait in the socket's backlog; the next child answers them, with
503 until its model is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot.serve.limits import most
from ingot.serve.link import FINISH, LOADED, STOP, STUCK, Link
from ingot.serve.watchdog import TICK_S, Stillness

log = logging.getLogger("ingot.serve")

CRASHES, WINDOW_S = 5, 600.0  # so many crashes in so many seconds are too many (taste)
DELAY_S = 1.0  # before the third start; twice as long each time (taste)
STOP_S = 20.0  # seconds that a child has to stop when it is told to stop at once; the engine's thread has half of them
LEAST_SILENCE_S = 10.0  # a start takes seconds without a sign (taste)
LAST_WORDS_S = 5.0  # seconds that a silent child has to write its stacks
REPORT = "please report it, with the stack above and what `ingot doctor` says"
# How a child is started: with the parent's paths, so that it finds what the parent found.
BOOT = "import sys; sys.path[:] = {path!r}; from ingot.cli import main; sys.exit(main())"


def is_possible() -> bool:
    """Whether there is what a supervisor needs: files that a child inherits, signals, an interpreter to start."""
    return os.name == "posix" and bool(sys.executable) and not getattr(sys, "frozen", False)


def child_command(words: Sequence[str], link: Link) -> list[str]:
    """`ingot serve` with the same words, under a supervisor."""
    return [sys.executable, "-c", BOOT.format(path=sys.path), "serve", *words, "--supervised", str(link)]


def silence_of(watchdog: float | None) -> float:
    """Seconds that a server may give no sign of life, if its passes may take `watchdog` (None: what is usual)."""
    limit = most("step") if watchdog is None else watchdog
    return max(limit, LEAST_SILENCE_S) if limit else 0


@dataclass(frozen=True)
class Ending:
    """How a child ended: its exit code, or minus the number of a signal; whether its model was ever loaded; whether it
    gave no sign of life; whether the system killed a process for memory meanwhile."""

    code: int
    was_ready: bool
    was_silent: bool
    no_memory: bool

    def __str__(self) -> str:
        if self.was_silent:
            return "the server gave no sign of life, and was ended; " + REPORT
        if self.code == STUCK:
            return "the server no longer came round, and was ended; " + REPORT
        if self.code == -signal.SIGKILL and self.no_memory:
            return (
                "the server was killed by the system for want of memory\n"
                "hint: a smaller --context or --parallel, --kv q8, --weights q4"
            )
        if self.code == -signal.SIGKILL:
            return "the server was killed (SIGKILL), by someone or by the system"
        if self.code == -signal.SIGILL:
            return "the server crashed: an instruction that this processor does not have (SIGILL); " + REPORT
        if self.code in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGABRT):
            return f"the server crashed in native code ({signal.Signals(-self.code).name}); {REPORT}"
        if self.code < 0:
            return f"the server was ended by {signal.strsignal(-self.code) or -self.code}"
        return f"the server ended by itself with exit code {self.code}; its last words are above"


class Supervisor:
    """`command` gives the words that start a child; `silence` seconds without a sign of life end one (0: never)."""

    def __init__(self, command: Callable[[Link], Sequence[str]], sock: socket.socket, silence: float) -> None:
        self._command, self._sock, self._silence = command, sock, silence
        self._orders = 0  # signals to end that have come
        self._told = 0  # of those, what the child knows
        self._stop_at = float("inf")
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._woken, self._wake = os.pipe()

    def run(self) -> int:
        """The exit code, when all is over; ChildProcessError where the server cannot be kept alive."""
        os.set_blocking(self._wake, False)
        with self._taking_signals():
            while True:
                ending = self._child()
                code = self._last(ending)
                if code is not None:
                    return code
                if not self._wait_before_next(ending):
                    return 0

    def _last(self, ending: Ending) -> int | None:
        """The exit code after the last child; None where another one is to be started."""
        if self._orders or ending.code == 0:
            asked = ending.code in (0, 130, -signal.SIGTERM, -signal.SIGINT) or self._orders > 1
            if not asked:
                raise ChildProcessError(f"{ending}\nhint: it was finishing its last requests, which are lost")
            return 130 if self._orders > 1 else max(ending.code, 0)
        if not ending.was_ready and ending.code > 0 and not self._crashes:
            return ending.code  # it has said what is wrong, and that will not change
        return None

    def _wait_before_next(self, ending: Ending) -> bool:
        """Tell of the crash and wait, longer each time; False where a signal ends it instead."""
        now = time.monotonic()
        first = not ending.was_ready and not self._crashes
        self._crashes.append(now)
        many = len(self._crashes) == CRASHES and now - self._crashes[0] < WINDOW_S
        if first or many:
            why = "before it was ready" if first else f"{CRASHES} times in {now - self._crashes[0]:.0f} seconds"
            raise ChildProcessError(f"{ending}\nhint: that was {why}, and it is not started again")
        recent = sum(now - crash < WINDOW_S for crash in self._crashes)
        delay = 0 if recent == 1 else DELAY_S * 2 ** (recent - 2)
        log.error("%s", ending)
        log.error("its requests are lost; it is started again%s", f" in {delay:g} s" if delay else "")
        end = now + delay
        while not self._orders and (left := end - time.monotonic()) > 0:
            self._sleep((), left)
        return not self._orders

    def _child(self) -> Ending:
        """One life of a server."""
        orders_read, orders = os.pipe()
        signs, signs_write = os.pipe()
        link = Link(self._sock.fileno(), orders_read, signs_write)
        killed = _killed_for_memory()
        process = subprocess.Popen(self._command(link), pass_fds=(link.listening, orders_read, signs_write))
        _close(orders_read, signs_write)
        try:
            was_ready, was_silent = self._watched(process, orders, signs)
            return Ending(process.wait(), was_ready, was_silent, _killed_for_memory() > killed)
        finally:
            process.kill()
            process.wait()
            _close(orders, signs)

    def _watched(self, process: subprocess.Popen[bytes], orders: int, signs: int) -> tuple[bool, bool]:
        """Until the child has ended, or must be: whether it was ready, whether it was silent."""
        still, count, was_ready, ended = Stillness(), 0, False, False
        while not ended:
            ended = process.poll() is not None  # then what it said before is read once more
            self._tell(process, orders)
            if signs in self._sleep([signs], 0 if ended else TICK_S):
                said = os.read(signs, 2**16)
                if not said:
                    process.wait()
                count += 1
                was_ready |= LOADED in said
            if still.look(count) > self._silence > 0 and not ended:
                self._last_words(process)
                return was_ready, True
        return was_ready, False

    def _tell(self, process: subprocess.Popen[bytes], orders: int) -> None:
        """Pass on the signals that have come: the first finishes, the second stops, the third kills, and so does time
        after the second."""
        while self._told < min(self._orders, 2):
            self._told += 1
            with contextlib.suppress(BrokenPipeError):
                os.write(orders, FINISH if self._told == 1 else STOP)
            if self._told == 2:
                self._stop_at = time.monotonic() + STOP_S
        if self._orders > 2 or time.monotonic() > self._stop_at:
            process.kill()

    def _last_words(self, process: subprocess.Popen[bytes]) -> None:
        """End a silent child: SIGABRT lets it write where its threads stand, if it can do that much."""
        log.error("the server has given no sign of life for %.0f seconds; all threads, if it can tell:", self._silence)
        process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS_S)
        process.kill()

    def _sleep(self, files: Sequence[int], seconds: float) -> list[int]:
        """Until a file can be read, a signal comes, or the time is over; the files that can be read."""
        found, _, _ = select.select([*files, self._woken], [], [], seconds)
        if self._woken in found:
            os.read(self._woken, 64)
        return found

    @contextlib.contextmanager
    def _taking_signals(self) -> Iterator[None]:
        def ordered(*_: object) -> None:
            self._orders += 1
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake, b"x")

        old = {number: signal.signal(number, ordered) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def _close(*files: int) -> None:
    for file in files:
        os.close(file)


def _killed_for_memory() -> int:
    """How many processes the system has killed for want of memory since it started; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
