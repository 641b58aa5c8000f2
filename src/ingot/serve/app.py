"""The endpoints: from an HTTP request to tickets for the engine, and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ingot.answering import Job
from ingot.divergence import cache_report
from ingot.language_model import LanguageModel
from ingot.prompt import Tokenizer
from ingot.serve import asks, fields
from ingot.serve.body import GoneError, parse_object, read_body
from ingot.serve.engine_thread import EngineThread
from ingot.serve.errors import ApiError, bad, of_value_error
from ingot.serve.guard import Access, Guard
from ingot.serve.limits import most
from ingot.serve.metrics import Metrics
from ingot.serve.pace import retry_after
from ingot.serve.replies import Reply
from ingot.serve.story import Story
from ingot.serve.stream import Answer, LoopMailbox
from ingot.serve.tickets import Ticket

QUEUE = 32  # requests that wait beside those that run (taste: a minute of short answers)
RETRY_S = 5  # what Retry-After says where nothing better is known (taste)
LOADING, READY, DRAINING = "loading", "ready", "draining"


@dataclass
class Service:
    """What the endpoints share. `names` are those by which clients may call the model, the first is what they are told;
    `engine` comes when the model is loaded."""

    names: Sequence[str]
    fingerprint: str = ""
    queue: int = QUEUE
    watchdog: float = most("step")
    idle_prefill: bool = True  # read the known part of a conversation's next prompt while there is nothing to do
    debug_cache: bool = False  # tell clients, where they ask, what the prefix cache has instead of what they sent
    engine: EngineThread | None = None
    state: str = LOADING
    open: int = 0  # requests for answers that have begun to be read and not ended
    pixels: int = 0  # of their pictures
    refused: int = 0  # requests, for each of which no place has been free since
    emptied: Callable[[], None] = lambda: None
    created: int = field(default_factory=lambda: int(time.time()))
    metrics: Metrics = field(default_factory=Metrics)
    # one thread: the rendering of a template holds a lock anyway, and the loop's own thread must never wait for one
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "reader"))
    # another one, so that a request need not wait for the rendering of what may come next
    ahead: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ahead"))

    def ready(self) -> EngineThread:
        """The engine; ApiError while it cannot take requests."""
        if self.engine is None:
            raise ApiError(503, "the model is being loaded", code=LOADING, retry_after=RETRY_S)
        if self.engine.failure:
            raise ApiError(500, self.engine.failure, code="engine_failed")
        if self.state == DRAINING:
            raise ApiError(503, "the server is stopping", code=DRAINING, retry_after=RETRY_S)
        return self.engine

    def seat(self) -> EngineThread:
        """The engine, and a place for one more request; ApiError 429 where all are taken."""
        engine = self.ready()
        if self.open >= engine.plan.parallel + self.queue:
            message = f"{engine.plan.parallel} answers run and {self.queue} requests wait, which are the most"
            raise ApiError(429, message, code="queue_full", retry_after=self._refusal(engine))
        self.open += 1
        return engine

    def hold(self, pixels: int) -> int:
        """Note that a request keeps so many pixels in memory; ApiError 503 where there are too many already."""
        if self.pixels + pixels > most("pixels"):
            message = f"the pictures of {self.open} requests fill the {most('pixels'):,} pixels that may be kept"
            raise ApiError(503, message, code="pixels", retry_after=self._refusal(self.ready()))
        self.pixels += pixels
        return pixels

    def _refusal(self, engine: EngineThread) -> int:
        """Seconds after which one who is refused now should come back: one after the other, as places will be free."""
        found = retry_after(engine.work_s, self.open, self.refused, RETRY_S)
        self.refused = min(self.refused + 1, self.open)
        return found

    def leave(self, pixels: int) -> None:
        """Give the place back, and what was held."""
        self.open -= 1
        self.refused = max(0, self.refused - 1)
        self.pixels -= pixels
        if not self.open:
            self.emptied()

    def look_ahead(self, engine: EngineThread, job: Job, completion: Any) -> None:
        """Have the known part of a conversation's next prompt read when there is nothing else to do."""
        if self.state == READY:
            self.ahead.submit(_look_ahead, engine, job, completion)

    async def read(self, make: Callable[..., Any], *given: Any) -> Any:
        """`make(*given)` in the reader's thread; ApiError for a sentence of the prompt's or the engine's rules."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.reader, make, *given)
        except ValueError as error:
            raise of_value_error(error) from None


def build_app(service: Service, access: Access) -> Guard:
    """The ASGI application."""
    made = Endpoints(service)
    routes = [
        *_versioned("/chat/completions", made.chat, "POST"),
        *_versioned("/completions", made.completion, "POST"),
        *_versioned("/models", made.models, "GET"),
        *_versioned("/models/{name:path}", made.model, "GET"),
        Route("/tokenize", made.tokenize, methods=["POST"]),
        Route("/detokenize", made.detokenize, methods=["POST"]),
        Route("/health", made.health, methods=["GET"]),
        Route("/ready", made.ready, methods=["GET"]),
        Route("/metrics", made.metrics, methods=["GET"]),
    ]
    handlers: Mapping[Any, Any] = {
        ApiError: _refused,
        GoneError: _gone,
        HTTPException: _http_error,
        Exception: _broken,
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers), access)


def _versioned(path: str, endpoint: Callable[..., Any], method: str) -> list[Route]:
    """A path of OpenAI's, and the same for clients whose base_url lacks the /v1."""
    return [Route(prefix + path, endpoint, methods=[method]) for prefix in ("/v1", "")]


class Endpoints:
    """One method a path."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        return await self._answer(request, asks.chat)

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions"""
        return await self._answer(request, asks.completion)

    async def _answer(self, request: Request, ask_of: Callable[..., asks.Ask]) -> Response:
        service = self.service
        story = Story(service.metrics, request.url.path)
        try:
            engine = service.seat()
            story.over = lambda: service.leave(story.pixels)
            data = await read_body(request)
            body = await service.read(parse_object, data)
            ask = await service.read(ask_of, body, engine.model, service.names, engine.plan)
            if ask.debug_cache and not service.debug_cache:
                raise bad("debug.cache is true, but the server runs without --debug-cache", "debug.cache")
            story.pixels = service.hold(ask.pixels)
            return self._submitted(engine, ask, story)
        except BaseException as error:
            story.broke(error)
            story.end()
            raise

    def _submitted(self, engine: EngineThread, ask: asks.Ask, story: Story) -> Answer:
        """The answer to come, its tickets with the engine."""
        mailbox, n = LoopMailbox(), ask.options.n
        tickets = [Ticket.of(job, ask.options, mailbox, n * place) for place, job in enumerate(ask.jobs)]
        completions = [receiver.completion for ticket in tickets for receiver in ticket.receivers]
        story.of(completions, n, tickets, engine)
        for ticket in tickets:
            engine.submit(ticket)
        service = self.service
        debug = partial(_cache_reports, ask.jobs, completions[::n], engine.model) if ask.debug_cache else None
        reply = Reply(ask.chat, service.names[0], service.fingerprint, completions, n, ask.include_usage, debug)
        if service.idle_prefill and n == 1:
            story.answered = lambda: service.look_ahead(engine, ask.jobs[0], completions[0])
        return Answer(mailbox, reply, ask.stream, story)

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self.service.names]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}"""
        name = request.path_params["name"]
        asks.check_model({"model": name}, self.service.names)
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        about: dict[str, Any] = {"id": name, "object": "model", "created": self.service.created, "owned_by": "ingot"}
        engine = self.service.engine
        if engine is None:
            return about
        modalities = ["text"] if engine.model.preprocessor is None else ["text", "image"]
        return {**about, "max_model_len": engine.plan.context, "input_modalities": modalities}

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize"""
        engine = self.service.ready()
        data = await read_body(request)
        body = await self.service.read(parse_object, data)
        return JSONResponse(
            await self.service.read(_tokenized, body, engine.model, self.service.names, engine.plan.context)
        )

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        engine = self.service.ready()
        data = await read_body(request)
        body = await self.service.read(parse_object, data)
        return JSONResponse(await self.service.read(_detokenized, body, engine.model, self.service.names))

    async def health(self, request: Request) -> Response:
        """GET /health: 200 while the server works or works off, 503 while it loads, 500 when the engine does not."""
        engine = self.service.engine
        if engine is None:
            raise ApiError(503, "the model is being loaded", retry_after=RETRY_S)
        ill = engine.ill(self.service.watchdog)
        if ill is not None:
            raise ApiError(500, ill)
        return JSONResponse({"status": "draining" if self.service.state == DRAINING else "ok"})

    async def ready(self, request: Request) -> Response:
        """GET /ready: 200 while requests are taken."""
        self.service.ready()
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """GET /metrics"""
        engine = self.service.engine
        read: dict[str, float] = {}
        if engine is not None:
            read = {
                "passes_total": engine.passes,
                "engine_errors_total": engine.errors,
                "drafts_total": engine.engine.tried,
                "drafts_accepted_total": engine.engine.accepted,
                "requests_running": engine.running,
                "requests_waiting": engine.waiting,
                "kv_usage_ratio": engine.tokens_held / (engine.plan.parallel * engine.plan.context),
            }
            read |= _cache_gauges(engine.engine.cache)
        text = self.service.metrics.text(read)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _look_ahead(engine: EngineThread, job: Job, completion: Any) -> None:
    try:
        request = job.next_turn(completion)
    except ValueError:  # the template does not take what was said, so that there is no next turn
        return
    if request is not None and len(request.ids) < engine.plan.context:
        engine.look_ahead(request)


def _cache_reports(jobs: Sequence[Job], completions: Sequence[Any], model: LanguageModel) -> dict[str, Any]:
    """What the prefix cache did for each prompt."""
    pairs = zip(jobs, completions, strict=True)
    return {"cache": [cache_report(job.request.ids, made.reuse, _tokenizer(model)) for job, made in pairs]}


def _cache_gauges(cache: Any) -> dict[str, float]:
    """What the prefix cache did, and its second tier."""
    told = {
        "cache_evictions_total": cache.evictions,
        "cache_canaries_total": cache.compared,
        "cache_mismatches_total": cache.mismatches,
    }
    if cache.disk is None:
        return told
    disk = cache.disk
    counts, (records, nbytes) = disk.journal.counts, disk.journal.held
    return told | {
        "cache_disk_bytes": nbytes,
        "cache_disk_records": records,
        "cache_disk_hits_total": disk.hits,
        "cache_disk_tokens_total": disk.tokens,
        "cache_disk_written_bytes_total": counts.written_bytes,
        "cache_disk_dropped_total": counts.dropped + disk.lost,
        "cache_disk_damaged_total": counts.damaged,
        "cache_disk_errors_total": counts.errors,
    }


def _tokenized(body: Mapping[str, Any], model: LanguageModel, names: Sequence[str], context: int) -> dict[str, Any]:
    tokenizer = _tokenizer(model)
    given = fields.checked(body, fields.TOKENIZE)
    asks.check_model(given, names)
    sources = [name for name in ("content", "prompt", "messages") if name in given]
    if len(sources) != 1:
        raise bad("one of content, prompt and messages is needed", "prompt")
    said = asks.check_media(given["messages"]) if sources == ["messages"] else given[sources[0]]
    asks.check_length(sources[0], [said, given.get("tools")], context)
    if sources == ["messages"]:
        generation = given.get("add_generation_prompt", True)
        variables = asks.template_variables(given)
        ids = model.encode(given["messages"], given.get("tools"), asks.thinking(given), generation, **variables).ids
    else:
        ids = tokenizer.encode(given[sources[0]], special=given.get("parse_special", True))
    plain = [int(index) for index in ids]
    result: dict[str, Any] = {"tokens": plain, "count": len(plain), "max_model_len": context}
    if given.get("with_pieces"):
        result["tokens"] = [{"id": index, "piece": tokenizer.decode([index])} for index in plain]
    return result


def _detokenized(body: Mapping[str, Any], model: LanguageModel, names: Sequence[str]) -> dict[str, Any]:
    given = fields.checked(body, fields.DETOKENIZE)
    asks.check_model(given, names)
    ids = given.get("tokens", [])
    asks.check_ids("tokens", ids, model)
    text = _tokenizer(model).decode(ids)
    return {"content": text, "prompt": text}


def _tokenizer(model: LanguageModel) -> Tokenizer:
    assert model.tokenizer is not None, "a model without a tokenizer is refused when it is loaded"
    return model.tokenizer


async def _refused(request: Request, error: ApiError) -> Response:
    return error.response()


async def _gone(request: Request, error: GoneError) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _http_error(request: Request, error: HTTPException) -> Response:
    sentences = {
        404: f"there is no {request.url.path[:80]!r} here; /v1/chat/completions is where chats go",
        405: f"{request.method} is not for {request.url.path[:80]!r}",
    }
    response = ApiError(error.status_code, sentences.get(error.status_code, str(error.detail))).response()
    response.headers.update(error.headers or {})
    return response


async def _broken(request: Request, error: Exception) -> Response:
    message = f"the server failed ({type(error).__name__}); its log says more"
    return ApiError(500, message).response()
