"""Two servers on the same random weights, for benchmarks over HTTP: `ingot serve` and `llama-server`, each started at
the highest priority we may have, asked by the same client, and ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.process import environment, first, resident

START_S, ANSWER_S = 180, 900  # what a server may take to load, and an answer to come


@dataclass
class Server:
    """One that runs: `who` is "ours" or "theirs"."""

    who: str
    port: int
    process: subprocess.Popen[bytes]
    command: str
    load_s: float = 0.0

    def memory(self) -> dict[str, float]:
        """Megabytes in RAM now."""
        anonymous, file = resident(self.process.pid)
        return {"anonymous_mb": anonymous / 1e6, "file_mb": file / 1e6}

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


@dataclass
class Answered:
    """A streamed answer: when it was asked for, when each piece of text came (seconds of one clock), what was told."""

    asked: float
    times: list[float] = field(default_factory=list)
    ended: float = 0.0
    usage: dict[str, Any] = field(default_factory=dict)
    message: dict[str, str] = field(default_factory=lambda: {"content": "", "reasoning_content": ""})

    @property
    def first_s(self) -> float:
        """Time to the first piece."""
        return self.times[0] - self.asked

    @property
    def stall_s(self) -> float:
        """The longest time between two pieces."""
        return max((b - a for a, b in pairwise(self.times)), default=0.0)

    @property
    def tokens(self) -> int:
        """Of the answer."""
        return int(self.usage["completion_tokens"])

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return int(self.usage["prompt_tokens"])

    @property
    def cached(self) -> int:
        """Of the prompt's tokens, those that were not computed again."""
        return int((self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    @property
    def rate(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / (self.times[-1] - self.times[0])


@contextlib.contextmanager
def started(who: str, command: Sequence[object], env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server until the end of the block; {port} in its command becomes a free one. RuntimeError with the end of its
    log where it does not start."""
    port = _free_port()
    words = [str(word).replace("{port}", str(port)) for word in command]
    log = Path(f"/tmp/ingot-bench-{who}.log")
    with log.open("wb") as out:
        begin = time.perf_counter()
        child = subprocess.Popen(
            words, stdout=out, stderr=out, env=dict(env) if env else None, preexec_fn=first, start_new_session=True
        )
        server = Server(who, port, child, " ".join(words))
        try:
            _wait(server, begin, log)
            server.load_s = time.perf_counter() - begin
            yield server
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def ours(
    checkpoint: Path, fmt: str, users: int, context: int, threads: int, more: Sequence[str], cache: Path
) -> contextlib.AbstractContextManager[Server]:
    """`ingot serve` with room for so many users of so many tokens; what it keeps on disk is in `cache`."""
    words = [sys.executable, "-m", "ingot.cli", "serve", checkpoint, "--weights", fmt, "--port", "{port}"]
    words += ["--parallel", users, "--context", context, "--threads", threads, "--log-level", "warning"]
    words += ["--no-supervisor", *more]  # one process, whose memory is measured
    return started("ours", words, environment() | {"INGOT_CACHE": str(cache)})


def theirs(
    source: Path, file: Path, users: int, context: int, threads: int, settings: Mapping[str, str], more: Sequence[str]
) -> contextlib.AbstractContextManager[Server]:
    """`llama-server` with as much: each slot has its own context; batching and prompt caching are on by default."""
    words: list[object] = [source / "build/bin/llama-server", "-m", file, "--port", "{port}", "--offline"]
    words += ["-np", users, "-c", users * context, "-t", threads, "--no-ui"]
    words += [word for key, value in settings.items() for word in _server_option(key, value)]
    return started("theirs", [*words, *more])


def _server_option(key: str, value: str) -> list[str]:
    """llama-bench's option as llama-server spells it."""
    if key == "--repack":
        return ["--repack" if value == "1" else "--no-repack"]
    return ["-ctk", value, "-ctv", value] if key == "kv" else [key, value]


def ask(server: Server, path: str, body: Mapping[str, Any]) -> Answered:
    """Stream an answer. RuntimeError with the response unless it is 200 and whole."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
    lines: list[tuple[float, bytes]] = []
    answer = Answered(time.perf_counter())
    try:
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{server.who}: {response.status} {response.read()[:500]!r}")
        for line in response:  # parsed afterwards: the client shares the processors with the server
            if line.startswith(b"data: "):
                lines.append((time.perf_counter(), line[6:].strip()))
    finally:
        connection.close()
    answer.ended = time.perf_counter()
    if not lines or lines[-1][1] != b"[DONE]":
        raise RuntimeError(f"{server.who}: the stream broke off after {len(lines)} events: {lines[-1:]}")
    for when, event in lines[:-1]:
        _note(answer, when, json.loads(event))
    return answer


def _note(answer: Answered, when: float, event: Mapping[str, Any]) -> None:
    if event.get("usage"):
        answer.usage = event["usage"]
    for choice in event.get("choices", ()):
        delta = choice.get("delta", {"content": choice.get("text")})
        said = [name for name in answer.message if delta.get(name)]
        for name in said:
            answer.message[name] += delta[name]
        if said or delta.get("tool_calls"):
            answer.times.append(when)


def post(server: Server, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A small request's JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{server.who}: {response.status} {text[:500]!r}")
        made: dict[str, Any] = json.loads(text)
        return made
    finally:
        connection.close()


def _wait(server: Server, begin: float, log: Path) -> None:
    while time.perf_counter() - begin < START_S and server.process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{server.command} is not ready after {time.perf_counter() - begin:.0f} s\n{tail}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
