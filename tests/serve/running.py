"""A server in a thread, and clients that send it exactly the bytes they are told to."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ingot.language_model import LanguageModel
from ingot.serve.server import Server, Settings, bound

PATIENCE_S = 100.0  # what a machine that is busy with others may take for anything


@dataclass
class Running:
    """A server that runs."""

    server: Server
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(
        self, path: str, body: Any = None, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON or text, headers) of one request; `body` is bytes, or what is sent as JSON."""
        connection = self.connection()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, data, headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        found = {key.lower(): value for key, value in response.getheaders()}
        connection.close()
        is_json = found.get("content-type", "").startswith("application/json")
        return response.status, json.loads(text) if is_json else text, found

    def chat(self, said: str, **more: Any) -> Any:
        """The response to one message."""
        status, body, _ = self.ask("/v1/chat/completions", {"messages": [user(said)], **more})
        assert status == 200, body
        return body

    def stream(self, said: str, **more: Any) -> Iterator[Any]:
        """The events of a streamed response to one message, as they come; "[DONE]" is the last."""
        connection = self.connection()
        body = json.dumps({"messages": [user(said)], "stream": True, **more})
        connection.request("POST", "/v1/chat/completions", body)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        try:
            for line in response:
                if line.startswith(b"data: "):
                    data = line[6:].strip().decode()
                    yield data if data == "[DONE]" else json.loads(data)
        finally:
            response.close()
            connection.close()


def user(said: str) -> dict[str, str]:
    return {"role": "user", "content": said}


@contextmanager
def serving(
    load: Callable[[], LanguageModel],
    wait: bool = True,
    link: Any = None,
    told: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> Iterator[Running]:
    """A server over what `load` gives, until the end of the block."""
    sock = bound("127.0.0.1", 0)
    server = Server(Settings(**{"names": ["scripted"], **settings}), load, told, link)
    server.port = sock.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(server.run_on(sock)), daemon=True)
    thread.start()
    running = Running(server, server.port)
    try:
        until(lambda: server.started and (not wait or server.service.engine is not None))
        yield running
    finally:
        with suppress(RuntimeError):  # it has ended already
            server._loop.call_soon_threadsafe(server.stop)
        thread.join(PATIENCE_S)
        sock.close()
        assert not thread.is_alive()


def until(true: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.005)
