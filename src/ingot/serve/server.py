"""The process: a socket, the event loop in the main thread, the engine in another, and how both end.

SIGTERM or Ctrl-C: no new requests (503), those that were taken are finished, then it ends. A second one: at once. Under
a supervisor (`ingot.serve.supervisor`) the signals are its business, and come from it as orders.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn

from ingot.language_model import LanguageModel
from ingot.memory import available
from ingot.serve.address import bound, shown_host
from ingot.serve.app import DRAINING, QUEUE, READY, Service, build_app
from ingot.serve.engine_thread import EngineThread
from ingot.serve.guard import LOOPBACK, Access
from ingot.serve.limits import most
from ingot.serve.link import FINISH, LOADED, STUCK, Link
from ingot.serve.plan import plan
from ingot.serve.protocol import Protocol
from ingot.serve.watchdog import Watchdog

log = logging.getLogger("ingot.serve")
STOP_S = 10  # seconds that the engine's thread has to end its pass when the server ends (taste)
GOODBYE_S = 2  # seconds in which clients are told before the server ends at once (taste)


@dataclass(frozen=True)
class Settings:
    """How to serve; None where the plan decides. `drain`: seconds that requests which were taken have to end when the
    server is told to finish (None: all they need); `watchdog`: seconds that a pass may take (0: any)."""

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
    drain: float | None = None
    watchdog: float = most("step")
    idle_prefill: bool = True
    debug_cache: bool = False

    @property
    def access(self) -> Access:
        """Who may speak with it. A key keeps strange pages out, so that any Host is fine; without one the server is
        on the loopback."""
        return Access(None if self.key else (*LOOPBACK, self.host), self.key, self.origins)


class Server(uvicorn.Server):
    """uvicorn's server with our way to end, and a model that is loaded while it answers already."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], LanguageModel],
        told: Callable[[str], None],
        link: Link | None = None,
    ) -> None:
        self.settings, self.load, self.told, self.link = settings, load, told, link
        self.service = Service(
            settings.names,
            queue=settings.queue,
            watchdog=settings.watchdog,
            idle_prefill=settings.idle_prefill,
            debug_cache=settings.debug_cache,
        )
        self.error: BaseException | None = None
        self.was_cut = False
        self._signals = 0
        config = uvicorn.Config(
            build_app(self.service, settings.access),
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=most("header"),
            timeout_keep_alive=most("head time"),
        )
        super().__init__(config)

    async def run_on(self, sock: socket.socket) -> None:
        """Serve until told to end; raises what kept the model from loading."""
        self._loop = asyncio.get_running_loop()
        self.service.emptied = self._emptied
        thread = threading.Thread(target=self._engine, name="engine", daemon=True)
        thread.start()
        watchdog = self._watchdog()
        watchdog.start()
        if self.link is not None:
            self.link.obey(lambda order: self._later(self.finish if order == FINISH else self.stop))
        with self._taking_signals():
            await self.serve(sockets=[sock])
        watchdog.stop()
        if self.service.engine is not None:
            self.service.engine.stop()
            await asyncio.to_thread(thread.join, STOP_S)
        for executor in (self.service.reader, self.service.ahead):
            executor.shutdown(wait=False, cancel_futures=True)
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        """What a signal asks for: first to finish, then to stop. A supervisor's order is not counted: a signal to all
        processes of a terminal or a service comes here beside it."""
        self._signals += 1
        if self._signals > 1:
            self.stop()
        else:
            self.finish()

    def stop(self) -> None:
        """End at once."""
        self.force_exit = self.should_exit = True
        if self.service.engine is not None:
            self.service.engine.stop()

    def finish(self) -> None:
        """Take no more requests, and end when those that were taken have ended, or their time is over."""
        if self.service.state == DRAINING:
            return
        self.service.state = DRAINING
        if not self.service.open or self.service.engine is None:
            self.should_exit = True
            return
        limit = self.settings.drain
        within = "" if limit is None else f" within {limit:g} s"
        self.told(f"finishing {self.service.open} requests{within}; once more to stop at once")
        if limit is not None:
            self._loop.call_later(limit, self._cut_off)

    def _cut_off(self) -> None:
        """The time to finish is over: who still waits gets an error, and who does not read it is left."""
        log.warning("%d requests were not finished in time, and are cut off", self.service.open)
        self.was_cut = self.should_exit = True
        if self.service.engine is not None:
            self.service.engine.stop()
        self._loop.call_later(GOODBYE_S, setattr, self, "force_exit", True)

    def _watchdog(self) -> Watchdog:
        """Over the engine and the event loop."""
        came_round = time.monotonic()

        def note() -> None:
            nonlocal came_round
            came_round = time.monotonic()

        def loop_turned() -> float:
            self._later(note)
            return came_round

        def engine_turned() -> float:
            engine = self.service.engine
            if engine is None or not (engine.busy or engine.has_ended):
                return time.monotonic()
            return engine.turned

        signs = {"the engine has not ended a pass": engine_turned, "the server has answered nobody": loop_turned}
        return Watchdog(signs, self.settings.watchdog, self._stuck)

    def _stuck(self, sentence: str) -> None:
        """Called by the watchdog: tell who waits, and have the supervisor start another server. Without one nothing is
        ended that may still go on."""
        if self.link is None:
            return
        if self.service.engine is not None:
            self.service.engine.abandon(sentence)
        time.sleep(GOODBYE_S)
        os._exit(STUCK)

    def _later(self, act: Callable[[], None]) -> None:
        """Have something done by the event loop's thread."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(act)

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
        if disk is not None and not disk.journal.counts.errors:  # else the log says why
            self.told(f"states of prompts are kept in {disk.journal.folder}")
        if self.link is not None:
            self.link.sign(LOADED)  # before anybody is told: whoever ends it then ends a server that was ready
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
        old = [signal.signal(number, lambda *_: self._later(self.end)) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, old, strict=True):
                signal.signal(number, handler)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own handling, which would refuse connections while it waits for those that are open."""
        yield


def serve(
    settings: Settings, load: Callable[[], LanguageModel], told: Callable[[str], None], link: Link | None = None
) -> bool:
    """Serve until a signal; whether it ended in its own time, not at once. `told` gets a line about each step; `link`
    is to the supervisor, if there is one.

    ValueError or OSError where it cannot begin.
    """
    sock = bound(settings.host, settings.port) if link is None else link.socket()
    server = Server(settings, load, told, link)
    server.port = sock.getsockname()[1]
    told(f"listening on {server.address}, loading {settings.names[0]}")
    try:
        asyncio.run(server.run_on(sock))
    finally:
        sock.close()
    return server.was_cut or not server.force_exit


def _free(model: LanguageModel) -> int | None:
    return available() if getattr(model.engine.ops, "__name__", "") != "torch" else None


def _fingerprint(model: LanguageModel) -> str:
    """What an answer's bits depend on beside the request, as far as it has a name."""
    from ingot import __version__

    ops: Any = model.engine.ops
    return f"ingot-{__version__}-{getattr(ops, 'isa', 'numpy')}-kv-{model.engine.states.kv}"
