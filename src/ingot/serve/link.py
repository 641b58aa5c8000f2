"""Between the supervisor and the server that it started: a socket, orders one way, signs of life the other."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

FINISH, STOP = b"f", b"s"  # orders: finish what was taken; stop at once
ALIVE, LOADED = b".", b"r"  # signs: the process runs; the model is loaded
SIGN_S = 1.0  # seconds between signs of life
STUCK = 70  # exit code of a server that no longer came round (EX_SOFTWARE of sysexits.h)
_PR_SET_PDEATHSIG = 1  # Linux: prctl(2)


@dataclass(frozen=True)
class Link:
    """The server's ends: the numbers of its open files."""

    listening: int
    orders: int
    signs: int

    @staticmethod
    def of(text: str) -> Link:
        """From a command line."""
        return Link(*map(int, text.split(",")))

    def __str__(self) -> str:
        return f"{self.listening},{self.orders},{self.signs}"

    def hold(self) -> None:
        """Give signs of life, and end with the supervisor, on Linux also where no thread of ours can run any more."""
        os.set_blocking(self.signs, False)
        threading.Thread(target=self._live, name="signs", daemon=True).start()
        if sys.platform == "linux":
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def _live(self) -> None:
        while True:
            self.sign(ALIVE)
            time.sleep(SIGN_S)

    def socket(self) -> socket.socket:
        """The place where clients ask, which outlives this process."""
        return socket.socket(fileno=self.listening)

    def sign(self, what: bytes) -> None:
        """Tell the supervisor."""
        with suppress(OSError):  # it is stopped, or gone
            os.write(self.signs, what)

    def obey(self, act: Callable[[bytes], None]) -> None:
        """Call `act` with each order from now on, in a thread. When the supervisor is gone, so is this process."""

        def follow() -> None:
            while order := os.read(self.orders, 1):
                act(order)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=follow, name="orders", daemon=True).start()
