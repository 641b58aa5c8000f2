"""How an answer goes out: whole, or as server-sent events; and what happens when its reader leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ingot.serve.body import GoneError
from ingot.serve.errors import ApiError
from ingot.serve.limits import most
from ingot.serve.replies import Reply
from ingot.serve.tickets import Ended, Failed, Piece

DONE = b"data: [DONE]\n\n"
PING = b": still here\n\n"


class LoopMailbox:
    """Carries events from the engine's thread to the loop that made it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Sequence[Any]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def post(self, events: Sequence[Any]) -> None:
        """Called by the engine's thread."""
        if not self._loop.is_closed():  # else the server has ended at once, and nobody waits
            self._loop.call_soon_threadsafe(self.queue.put_nowait, events)

    async def events(self, answers: int) -> AsyncIterator[Any]:
        """Events until all answers have ended; ApiError where they fail; None where nothing came for a while."""
        while answers:
            try:
                async with asyncio.timeout(most("ping")):
                    batch = await self.queue.get()
            except TimeoutError:
                yield None
                continue
            for event in batch:
                if isinstance(event, Failed):
                    raise event.error
                answers -= isinstance(event, Ended)
                yield event


class Answer(Response):
    """The response to a request whose tickets are with the engine. `story` is told when it began, and how it went."""

    def __init__(self, mailbox: LoopMailbox, reply: Reply, stream: bool, story: Any) -> None:
        self.mailbox, self.reply, self.is_stream, self.story = mailbox, reply, stream, story
        self.background, self.status_code = None, 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(
            self._stream(scope, receive, send) if self.is_stream else self._whole(scope, receive, send)
        )
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise GoneError
            await answering
        except (GoneError, OSError) as error:
            self.story.broke(error)
        except BaseException as error:
            self.story.broke(error)
            raise
        finally:
            answering.cancel()
            leaving.cancel()
            self.story.end()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        try:
            async for event in self.mailbox.events(len(self.reply.completions)):
                self.story.saw(event)
            response = JSONResponse(self.reply.whole())
        except ApiError as error:
            self.story.failed(error)
            response = error.response()
        await response(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Nothing is sent before the prompt is being read, so that a refusal until then has its own status."""
        events = self.mailbox.events(len(self.reply.completions))
        try:
            first = await anext(events)
        except ApiError as error:
            self.story.failed(error)
            await error.response()(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await _sent(send, {"type": "http.response.start", "status": 200, "headers": headers})
        async for data in self._chunks(first, events):
            await _sent(send, {"type": "http.response.body", "body": data, "more_body": True})
        await _sent(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, first: Any, events: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        yield b"".join(map(_event, self.reply.opening()))
        try:
            for data in self._chunk(first):
                yield data
            async for event in events:
                for data in self._chunk(event):
                    yield data
            yield b"".join(map(_event, self.reply.last())) + DONE
        except ApiError as error:  # the status is sent: clients look for an error among the events
            self.story.failed(error)
            yield _event(error.body())

    def _chunk(self, event: Any) -> Iterator[bytes]:
        self.story.saw(event)
        if isinstance(event, Piece):
            yield _event(self.reply.piece(event.index, event.piece, event.logprobs))
        elif isinstance(event, Ended):
            yield _event(self.reply.ending(event.index, event.logprobs))
        elif event is None:
            yield PING


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _sent(send: Send, message: Any) -> None:
    async with asyncio.timeout(most("send time")):
        await send(message)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
