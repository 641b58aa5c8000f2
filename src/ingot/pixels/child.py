"""Our end of the child process that decodes: pictures and videos in, pixels or one sentence out.

One child is kept for pictures (its start costs more than most pictures); a video has a child of its own. A child that
dies, hangs, or says what it should not, ends with its job.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ingot.pixels import limits
from ingot.pixels.worker import ENV, LENGTHS, run

Array = np.ndarray
START_SECONDS = 60  # taste: a cold disk
HEAD_BYTES = 1 << 20  # of a message; the longest lists 768 times
THREADS = 8  # processors that one job may keep busy at once: CPU time is bounded at so many times the wall clock's
# What the loader of shared libraries may need; nothing else of our environment is the child's business.
KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH")


def contained() -> bool:
    """Whether decoding happens in a child process. Not on Windows, which has no such limits, nor in a frozen
    program, which has no interpreter to start."""
    return os.name == "posix" and sys.platform != "emscripten" and bool(sys.executable) and not hasattr(sys, "frozen")


def decode_image(data: bytes, name: str) -> Array:
    """uint8 [H, W, 3] of a picture file's bytes; ValueError in one sentence that begins with `name`."""
    with _lock:
        [(head, body)] = _answers({"do": "image", "name": name}, data, limits.IMAGE_SECONDS, keep=True)
    return _pixels(head, body, limits.IMAGE_PIXELS, name)


def probe_video(source: Path | bytes, name: str) -> dict[str, Any]:
    """{"frames", "fps", "height", "width"} of a video file, or of one's bytes; ValueError as above."""
    job, data = _video_job(source, name)
    [(head, _)] = _answers(job | {"do": "probe"}, data, limits.VIDEO_SECONDS)
    return head


def decode_video(
    source: Path | bytes, name: str, fps: float, fewest: int, most: int
) -> Iterator[tuple[dict[str, Any], Array | None]]:
    """What `video.frames` says, frame by frame: ({"frames", "height", "width", "seconds"}, None), then the frames."""
    job, data = _video_job(source, name)
    job |= {"do": "frames", "fps": fps, "fewest": fewest, "most": most}
    about: dict[str, Any] = {}
    for head, body in _answers(job, data, limits.VIDEO_SECONDS):
        if "seconds" in head:
            about = head
            yield head, None
        else:
            yield head, _pixels(about, body, limits.FRAME_PIXELS, name)


def warm() -> None:
    """Start the child for pictures now, so that it is ready when the first one comes."""
    if contained():
        with _lock:
            _kept_child()


def _video_job(source: Path | bytes, name: str) -> tuple[dict[str, Any], bytes]:
    if isinstance(source, bytes):
        return {"name": name}, source
    return {"name": name, "path": os.path.abspath(source)}, b""


def _pixels(head: dict[str, Any], body: Any, most: int, name: str) -> Array:
    """The array of a message; the child is not believed."""
    height, width = head.get("height"), head.get("width")
    array = np.asarray(body) if isinstance(body, np.ndarray) else np.frombuffer(body, np.uint8)
    if not (isinstance(height, int) and isinstance(width, int) and 0 < height * width <= most and array.size):
        raise ValueError(f"{name} cannot be decoded: its decoder speaks of {height!r} x {width!r} pixels")
    if array.size != height * width * 3:
        raise ValueError(f"{name} cannot be decoded: its decoder gave {array.size:,} bytes for {width} x {height}")
    return np.ascontiguousarray(array.reshape(height, width, 3))


def _answers(
    job: dict[str, Any], data: bytes, seconds: int, keep: bool = False
) -> Iterator[tuple[dict[str, Any], Any]]:
    if not contained():
        yield from run(job, data)
        return
    child = _kept_child() if keep else Child()
    try:
        yield from child.ask(job, data, seconds)
    except ValueError:
        raise
    except BaseException:  # Ctrl-C, or nobody wants the rest: the child is in the middle of its answer
        child.end()
        raise
    finally:
        if not keep:
            child.end()


_lock = threading.Lock()
_kept: tuple[int, Child] | None = None  # of this process: a fork has its own


def _kept_child() -> Child:
    global _kept
    if _kept is None or _kept[0] != os.getpid() or not _kept[1].alive:
        _kept = os.getpid(), Child()
        atexit.register(_kept[1].end)
    return _kept[1]


class Child:
    """A running worker."""

    def __init__(self) -> None:
        path = [entry for entry in sys.path if os.path.isabs(entry)] + [str(Path(__file__).parents[2])]
        code = f"import sys; sys.path[:] = {path!r}; from ingot.pixels.worker import main; main()"
        env = ENV | {name: os.environ[name] for name in KEPT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=env,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        for end in (self._in, self._out):
            os.set_blocking(end, False)
            _widen(end)
        self._ready = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill and bury it."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()

    def ask(self, job: dict[str, Any], data: bytes, seconds: int) -> Iterator[tuple[dict[str, Any], Any]]:
        """The answers to a job; ValueError with the child's sentence, or with one about how it ended."""
        try:
            self._begin()
            deadline = time.monotonic() + seconds
            head = json.dumps(job | {"seconds": seconds * THREADS}).encode()
            self._write(LENGTHS.pack(len(head), len(data)) + head, deadline)
            self._write(data, deadline)
            while "end" not in (message := self._message(deadline))[0]:
                if "error" in message[0]:
                    raise ValueError(_sentence(message[0]["error"]))
                yield message
        except TimeoutError:
            self.end()
            raise ValueError(f"{job['name']} takes more than {seconds} seconds to decode, which are the most") from None
        except _EndedError:
            raise ValueError(f"{job['name']} cannot be decoded: {self._how_it_ended()}") from None

    def _begin(self) -> None:
        if self._ready:
            return
        try:
            self._ready = self._message(time.monotonic() + START_SECONDS)[0] == {"ready": True}
        except _EndedError:
            how = self._how_it_ended()
            raise RuntimeError(f"{how} at its start\nhint: python -m ingot.pixels.worker shows why") from None

    def _how_it_ended(self) -> str:
        self.end()
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return "its decoder took too much processor time"
        return "its decoder " + (
            f"crashed ({signal.Signals(-code).name})" if code < 0 else f"stopped (exit code {code})"
        )

    def _message(self, deadline: float) -> tuple[dict[str, Any], Array]:
        head, body = LENGTHS.unpack(self._read(LENGTHS.size, deadline).data)
        if head > HEAD_BYTES or body > 3 * limits.IMAGE_PIXELS:
            raise _EndedError
        try:
            found = json.loads(bytes(self._read(head, deadline)))
        except (ValueError, RecursionError):
            raise _EndedError from None
        if not isinstance(found, dict):
            raise _EndedError
        return found, self._read(body, deadline)

    def _read(self, size: int, deadline: float) -> Array:
        array = np.empty(size, np.uint8)
        view, at = array.data, 0
        while at < size:
            self._wait(self._out, selectors.EVENT_READ, deadline)
            got = os.readv(self._out, [view[at:]])
            if not got:
                raise _EndedError
            at += got
        return array

    def _write(self, data: bytes, deadline: float) -> None:
        view, at = memoryview(data), 0
        while at < len(view):
            self._wait(self._in, selectors.EVENT_WRITE, deadline)
            try:
                at += os.write(self._in, view[at : at + (1 << 20)])
            except BrokenPipeError:
                raise _EndedError from None

    def _wait(self, end: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(end, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError


class _EndedError(Exception):
    """The child is gone, or speaks nonsense."""


def _sentence(text: Any) -> str:
    """What a child says goes to a person: bounded."""
    return str(text)[:2000]


def _widen(end: int) -> None:
    """A pipe of a megabyte, where it can be had: 64 KB would be a switch of processes for every 64 KB of pixels."""
    import fcntl

    try:
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20)  # type: ignore[attr-defined, unused-ignore]
    except (AttributeError, OSError):
        return
