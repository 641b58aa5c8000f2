"""A person at a terminal: starts the chat in a pseudo-terminal, waits for what appears, types."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from types import TracebackType

from tests.cli.run_ingot import command, environment

_SEQUENCES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>])")
PROMPT = "\uf8ff"  # stands for the sequence with which line editing begins: the chat is ready for keys
WAIT_S = 100  # a busy machine starts and imports slowly


class Chat:
    """`with Chat("--think", NAME=VALUE) as chat:` runs `ingot chat --think` with NAME=VALUE in its environment."""

    def __init__(self, *words: str, columns: int = 80, **env: str) -> None:
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            command("chat", *words),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(**env),
            preexec_fn=_own_terminal,
        )
        os.close(theirs)
        self.raw = ""
        self._seen = 0

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._own)

    @property
    def text(self) -> str:
        """All that was shown, without escape sequences."""
        return _SEQUENCES.sub("", self.raw.replace("\x1b[?2004h", PROMPT)).replace("\r", "")

    def wait(self, text: str) -> str:
        """Wait until `text` appears after what was waited for before; return what came up to its end."""
        until = time.monotonic() + WAIT_S
        while (at := self.text.find(text, self._seen)) < 0:
            if not self._read(until):
                raise AssertionError(f"{text!r} did not appear; since the last wait:\n{self.text[self._seen :]}")
        before, self._seen = self._seen, at + len(text)
        return self.text[before : self._seen]

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._own, text.encode())

    def say(self, text: str) -> str:
        """Type a line at the prompt and wait for the next prompt; return what was shown in between."""
        self.type(text + "\r")
        self.wait(text)
        return self.wait(PROMPT)

    def interrupt(self) -> None:
        """Ctrl-C while an answer runs."""
        self.process.send_signal(signal.SIGINT)

    def leave(self) -> int:
        """The exit code, once the process has ended."""
        until = time.monotonic() + WAIT_S
        while self._read(until):
            pass
        return self.process.wait(WAIT_S)

    def _read(self, until: float) -> bool:
        ready, _, _ = select.select([self._own], [], [], max(0.0, until - time.monotonic()))
        try:
            data = os.read(self._own, 65536) if ready else b""
        except OSError:  # the other side is closed
            data = b""
        self.raw += data.decode(errors="replace")
        return bool(data)


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
