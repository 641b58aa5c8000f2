"""A process that executes inputs under limits, and the one that watches it: crashes and hangs are findings too."""

from __future__ import annotations

import faulthandler
import mmap
import multiprocessing
import os
import re
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tools.fuzz.coverage import Coverage
from tools.fuzz.mutate import LIMIT, Mutator
from tools.fuzz.target import Finding, Target, execute

_HEAD = struct.Struct("<dQQQ")  # when the execution began (0: none runs), executions, lines covered, bytes of the input
_INPUT_LIMIT = 4 * LIMIT
_STEP_S = 0.1
# Where tracing is dear (before Python 3.12) and nothing new was seen in so many executions, one in a few is traced.
_TRACED, _SAMPLED = 1000, 8


class Worker:
    """A forked process that runs `work(worker)`; what it is at is seen from outside in shared memory.

    `Worker.found` and `Worker.kept` are what it has sent.
    """

    def __init__(self, target: Target, work: Callable[[Worker], None]) -> None:
        self.target = target
        self.found: list[Finding] = []
        self.kept: list[bytes] = []
        self._shared = mmap.mmap(-1, _HEAD.size + _INPUT_LIMIT)
        self._traces = tempfile.TemporaryFile()  # noqa: SIM115 - for the life of the worker
        self._receiver, self._sender = multiprocessing.Pipe(duplex=False)
        self._process: Any = multiprocessing.get_context("fork").Process(target=self._main, args=(work,))
        self._process.start()
        self._sender.close()

    # in the child

    def _main(self, work: Callable[[Worker], None]) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        faulthandler.disable()  # who started us may have it write to a terminal
        faulthandler.register(signal.SIGUSR1, file=self._traces, all_threads=False)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in Rust print their panics
        warnings.simplefilter("ignore")
        limit_memory(self.target.memory)
        work(self)
        self._send(None)

    def _send(self, message: Any) -> None:
        self._sender.send(message)

    def execute(self, data: bytes, executions: int, covered: int) -> Finding | None:
        """Runs one input; a finding is sent as well."""
        self._shared[_HEAD.size : _HEAD.size + len(data)] = data
        self._note(time.monotonic(), executions, covered, len(data))
        finding = execute(self.target, data)
        self._note(0.0, executions, covered, len(data))
        if finding:
            self._send(finding)
        return finding

    def keep(self, data: bytes) -> None:
        """Tells that `data` reached something new."""
        self._send(data)

    def _note(self, *values: Any) -> None:
        self._shared[: _HEAD.size] = _HEAD.pack(*values)

    # in the parent

    def watch(self) -> bool:
        """Takes what was sent, for a moment; whether the worker still runs. One that crashes or hangs is ended."""
        try:
            if self._receiver.poll(_STEP_S):
                while self._receiver.poll():
                    self._take(self._receiver.recv())
        except EOFError:
            self._died()
            return False
        since = self._seen()[0]
        if since and time.monotonic() - since > self.target.seconds:
            self._hung()
            return False
        return True

    @property
    def executions(self) -> int:
        return int(self._seen()[1])

    @property
    def covered(self) -> int:
        return int(self._seen()[2])

    def end(self) -> None:
        """Kill the process, if it runs."""
        self._process.kill()
        self._process.join()
        self._receiver.close()

    def _seen(self) -> tuple[Any, ...]:
        return _HEAD.unpack(self._shared[: _HEAD.size])

    def _current(self) -> bytes:
        return self._shared[_HEAD.size : _HEAD.size + self._seen()[3]]

    def _take(self, message: Any) -> None:
        if message is None:
            raise EOFError
        (self.found if isinstance(message, Finding) else self.kept).append(message)

    def _died(self) -> None:
        self._process.join()
        if code := self._process.exitcode:
            what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self.found.append(Finding(f"crash {what}", f"the process ended with {what}", self._current()))

    def _hung(self) -> None:
        os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(0.3)
        self._traces.seek(0)
        text = self._traces.read().decode("utf-8", "replace")
        place = next(iter(re.findall(r'ingot/\S*?(\w+\.py)", line (\d+)', text)), ("somewhere", ""))
        sentence = f"it takes more than {self.target.seconds:g} s, at {' '.join(text.split())[:300]}"
        self.found.append(Finding(f"hang at {place[0]}-{place[1]}", sentence, self._current()))
        self.end()


def limit_memory(more: int) -> None:
    """Let this process have `more` bytes than now; a platform without such limits does without."""
    try:
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


def once(target: Target, data: bytes) -> Finding | None:
    """Executes one input in a process of its own."""
    worker = Worker(target, lambda self: _executed(self, data))
    try:
        while worker.watch():
            pass
    finally:
        worker.end()
    return worker.found[0] if worker.found else None


def _executed(worker: Worker, data: bytes) -> None:
    worker.execute(data, 1, 0)


def explore(seed: int, begin: Sequence[bytes]) -> Callable[[Worker], None]:
    """The work of a fuzzing process: for ever, execute changed inputs and keep those that reach new lines."""

    def work(worker: Worker) -> None:
        random, coverage = Random(seed), Coverage()
        mutator = Mutator(random, worker.target.tokens())
        corpus = list(begin)
        coverage.start()
        for number, data in enumerate(corpus):
            worker.execute(data, number, len(coverage))
        executions = last = len(corpus)
        while True:
            data = _changed(random, mutator, worker.target, corpus)
            before, executions = len(coverage), executions + 1
            if executions - last < _TRACED or executions % _SAMPLED == 0:
                coverage.start()
            worker.execute(data, executions, before)
            coverage.stop()
            if len(coverage) > before:
                last = executions
                corpus.append(data)
                worker.keep(data)

    return work


def _changed(random: Random, mutator: Mutator, target: Target, corpus: Sequence[bytes]) -> bytes:
    data = random.choice(corpus)
    for _ in range(min(1 + int(random.expovariate(0.8)), 8)):
        parts = target.split(data)
        other = random.choice(target.split(random.choice(corpus)) or [b""])
        at = random.randrange(len(parts)) if parts else 0
        parts[at : at + 1] = [mutator.mutated(parts[at] if parts else b"", other)]
        data = target.join(parts)[: target.length]
    return data


assert sys.platform != "win32", "the fuzzers fork"
