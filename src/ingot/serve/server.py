"""The process: a socket, the event loop in the main thread, the engine in another, and how both end.

SIGTERM or Ctrl-C: no new requests (503), those that were taken are finished, then it ends. A second one: at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn

from ingot.language_model import LanguageModel
from ingot.memory import available
from ingot.serve.app import DRAINING, QUEUE, READY, Service, build_app
from ingot.serve.engine_thread import EngineThread
from ingot.serve.guard import LOOPBACK, Access
from ingot.serve.limits import most
from ingot.serve.plan import plan

log = logging.getLogger("ingot.serve")
STOP_S = 10  # seconds that the engine's thread has to end its pass when the server ends (taste)


@dataclass(frozen=True)
class Settings:
    """How to serve; None where the plan decides."""

    names: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    origins: Sequence[str] = ()
    parallel: int | None = None
    context: int | None = None
    queue: int = QUEUE
    cache: int | None = None  # bytes of snapshots for the prefix cache
    canary: float = 0.0  # share of its hits that are computed again

    @property
    def access(self) -> Access:
        """Who may speak with it. A key keeps strange pages out, so that any Host is fine; without one the server is
        on the loopback."""
        return Access(None if self.key else (*LOOPBACK, self.host), self.key, self.origins)


class Server(uvicorn.Server):
    """uvicorn's server with our way to end, and a model that is loaded while it answers already."""

    def __init__(self, settings: Settings, load: Callable[[], LanguageModel], told: Callable[[str], None]) -> None:
        self.settings, self.load, self.told = settings, load, told
        self.service = Service(settings.names, queue=settings.queue)
        self.error: BaseException | None = None
        self._signals = 0
        config = uvicorn.Config(
            build_app(self.service, settings.access),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=most("header"),
            timeout_keep_alive=30,
        )
        super().__init__(config)

    async def run_on(self, sock: socket.socket) -> None:
        """Serve until told to end; raises what kept the model from loading."""
        self._loop = asyncio.get_running_loop()
        self.service.emptied = self._emptied
        thread = threading.Thread(target=self._engine, name="engine", daemon=True)
        thread.start()
        with self._taking_signals():
            await self.serve(sockets=[sock])
        if self.service.engine is not None:
            self.service.engine.stop()
            await asyncio.to_thread(thread.join, STOP_S)
        self.service.reader.shutdown(wait=False, cancel_futures=True)
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        """What a signal asks for: first to finish, then to stop."""
        self._signals += 1
        if self._signals > 1:
            self.force_exit = self.should_exit = True
            if self.service.engine is not None:
                self.service.engine.stop()
            return
        self.service.state = DRAINING
        if self.service.open and self.service.engine is not None:
            self.told(f"finishing {self.service.open} requests; once more to stop at once")
        else:
            self.should_exit = True

    def _emptied(self) -> None:
        if self.service.state == DRAINING:
            self.should_exit = True

    def _engine(self) -> None:
        """The engine's thread: load, plan, run."""
        try:
            model = self.load()
            if model.tokenizer is None:
                raise ValueError(f"{model.path}: holds no tokenizer.json or vocab.json; a server needs to read text")
            settings = self.settings
            exact = hasattr(model.engine.ops, "packed")  # elsewhere a prompt that is cut otherwise may have other bits
            cache = 0 if settings.cache is None and not exact else settings.cache
            made = plan(model.engine, settings.parallel, settings.context, _free(model), cache)
            if model.engine.cache.disk is not None and not made.snapshots:
                raise ValueError("--cache-disk is given, and there is no prefix cache\nhint: --cache-ram MIB")
            engine = EngineThread(model, made, settings.canary)
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._not_loaded, error)
            return
        self._loop.call_soon_threadsafe(self._loaded, engine)
        engine.run()

    def _not_loaded(self, error: BaseException) -> None:
        self.error, self.should_exit = error, True

    def _loaded(self, engine: EngineThread) -> None:
        service = self.service
        service.fingerprint = _fingerprint(engine.model)
        service.engine = engine
        if service.state != DRAINING:
            service.state = READY
        self.told(f"{engine.plan}; {service.queue} requests may wait")
        disk = engine.engine.cache.disk
        if disk is not None:
            self.told(f"states of prompts are kept in {disk.journal.folder}")
        self.told(f"ready: {service.names[0]} at {self.address}")

    @property
    def address(self) -> str:
        """What clients take as base_url."""
        return f"http://{shown_host(self.settings.host)}:{self.port}/v1"

    port = 0

    @contextlib.contextmanager
    def _taking_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        old = [signal.signal(number, lambda *_: self._loop.call_soon_threadsafe(self.end)) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, old, strict=True):
                signal.signal(number, handler)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own handling, which would refuse connections while it waits for those that are open."""
        yield


def serve(settings: Settings, load: Callable[[], LanguageModel], told: Callable[[str], None]) -> bool:
    """Serve until a signal; whether all requests were finished. `told` gets a line about each step.

    ValueError or OSError where it cannot begin.
    """
    sock = bound(settings.host, settings.port)
    server = Server(settings, load, told)
    server.port = sock.getsockname()[1]
    told(f"listening on {server.address}, loading {settings.names[0]}")
    try:
        asyncio.run(server.run_on(sock))
    finally:
        sock.close()
    return not server.force_exit


def bound(host: str, port: int) -> socket.socket:
    """A listening place; OSError in one sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":  # there it would take a port from another server
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"--host {host} --port {port}: {reason}\nhint: --port 0 takes one that is free") from None
    return sock


def shown_host(host: str) -> str:
    """A host as a URL writes it."""
    return f"[{host}]" if ":" in host else host


def _free(model: LanguageModel) -> int | None:
    return available() if getattr(model.engine.ops, "__name__", "") != "torch" else None


def _fingerprint(model: LanguageModel) -> str:
    """What an answer's bits depend on beside the request, as far as it has a name."""
    from ingot import __version__

    ops: Any = model.engine.ops
    return f"ingot-{__version__}-{getattr(ops, 'isa', 'numpy')}-kv-{model.engine.states.kv}"
