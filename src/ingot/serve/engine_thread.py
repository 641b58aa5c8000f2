"""The thread that owns the model. Everyone else sends it tickets and gets events back; nothing else is shared.

    submit, cancel, stop  ->  inbox  ->  waiting  ->  scheduler  ->  receivers  ->  mailboxes

A turn of its loop reads the inbox, begins what there is place for, and makes one pass: so a cancelled answer ends
within a pass, and pictures are encoded one a turn, between the passes of those who are running.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from ingot.answer import TokenLogprob
from ingot.answering import Job
from ingot.engine import Request
from ingot.engine.sequence import pages_of
from ingot.language_model import LanguageModel
from ingot.options import Options
from ingot.serve.errors import ApiError
from ingot.serve.plan import Plan

log = logging.getLogger("ingot.serve")

# Seconds of a pass that reads a prompt while others' answers go on (taste: a stream that pauses so long still flows).
SLICE_S = 0.2
CRASHES = 3  # passes that fail one after the other before the engine is given up (taste)


@dataclass(frozen=True)
class Piece:
    """What a token adds to answer `index`: a Delta; or a text, and the logprobs of the tokens since the last."""

    index: int
    piece: Any
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True)
class Began:
    """The prompt of a ticket is being read."""


@dataclass(frozen=True)
class Ended:
    """Answer `index` is whole, its completion is the client's to read; with a text's logprobs that no piece brought."""

    index: int
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True)
class Failed:
    """There will be no more."""

    error: ApiError


class Mailbox(Protocol):
    """Where events go; `post` is called by the engine's thread."""

    def post(self, events: Sequence[Any]) -> None: ...


@dataclass(eq=False)
class Ticket:
    """A prompt on its way: its answers have the numbers from `first` on. The engine's thread alone touches receivers
    until they have ended."""

    job: Job
    receivers: Sequence[Any]
    mailbox: Mailbox
    first: int = 0
    began: float = 0.0
    seen: int = 0  # pictures that are encoded
    running: dict[int, int] = field(default_factory=dict)  # the scheduler's number -> index among the receivers
    told: dict[int, int] = field(default_factory=dict)  # index -> logprobs that are on their way

    @classmethod
    def of(cls, job: Job, options: Options, mailbox: Mailbox, first: int) -> Ticket:
        """A ticket for all answers to the job."""
        return cls(job, job.receivers(options), mailbox, first)

    def untold(self, place: int) -> Sequence[TokenLogprob]:
        """The logprobs of an answer's tokens that no piece has brought yet."""
        known = self.receivers[place].completion.logprobs or []
        begin, self.told[place] = self.told.get(place, 0), len(known)
        return known[begin:]


class EngineThread:
    """`model` runs under `plan` until `stop`. `failure` is the sentence about why it does no more, if so."""

    def __init__(self, model: LanguageModel, plan: Plan, canary: float = 0.0) -> None:
        self.model, self.plan, self.engine = model, plan, model.engine
        self.failure: str | None = None
        self.passes, self.errors = 0, 0
        self.turned = time.monotonic()  # when the loop last came round
        self.busy = False
        self._scheduler = model.engine.scheduler(plan.parallel, SLICE_S, canary)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._waiting = deque[Ticket]()
        self._tickets: dict[int, Ticket] = {}  # by the scheduler's numbers of their answers
        self._crashes = 0
        self._stopped = False

    def submit(self, ticket: Ticket) -> None:
        """Have a ticket answered, after those that came before."""
        self._inbox.put(lambda: self._take(ticket))

    def cancel(self, ticket: Ticket) -> None:
        """End a ticket wherever it is; one that has ended is left alone."""
        self._inbox.put(lambda: self._cancel(ticket))

    def look_ahead(self, request: Request) -> None:
        """Have a prompt read for the prefix cache when there is nothing else to do."""
        self._inbox.put(lambda: self._look_ahead(request))

    def stop(self) -> None:
        """End everything, and the thread."""
        self._inbox.put(self._stop)

    @property
    def running(self) -> int:
        """Answers that are being made."""
        return len(self._tickets)

    @property
    def waiting(self) -> int:
        """Prompts that have not begun."""
        return len(self._waiting)

    @property
    def tokens_held(self) -> int:
        """Tokens that running answers have taken room for, in whole pages."""
        return self.engine.states.tokens_held

    def run(self) -> None:
        """The thread's life. After an error outside of a pass it lives on to refuse what comes."""
        self._guarded(self._reserve)
        while not self._stopped:
            self._guarded(self._turn)
        self._scheduler.close()

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except Exception as error:
            log.exception("the engine has stopped")
            self._give_up(f"the engine has stopped after an error ({type(error).__name__}); restart the server")

    def _turn(self) -> None:
        self._read_inbox()
        self._begin()
        if self._scheduler.unfinished:
            self._pass()
        elif self._scheduler.has_idle_work:
            self._idle_pass()
        self.turned = time.monotonic()

    def _reserve(self) -> None:
        """Room for all users at once: pools that grow later would stop every stream while they are copied. The system
        gives memory as rows are taken. Not where nobody knows what is free: there memory may be taken at once."""
        plan, states, cache = self.plan, self.engine.states, self.engine.cache
        pages = plan.parallel * pages_of(plan.context)
        cache.budget = plan.snapshots * states.state_bytes
        if plan.snapshots:
            cache.budget += pages * states.page_bytes
        if plan.room is not None:
            states.prepare(plan.parallel + plan.snapshots, pages)

    def _read_inbox(self) -> None:
        """Do what was sent; with nothing else to do, wait for it."""
        self.busy = bool(self._waiting or self._scheduler.unfinished or self._scheduler.has_idle_work)
        try:
            if not self.busy:
                self._inbox.get()()
                self.turned, self.busy = time.monotonic(), True
            while True:
                self._inbox.get_nowait()()
        except Empty:
            pass

    def _take(self, ticket: Ticket) -> None:
        if self.failure:
            ticket.mailbox.post([Failed(ApiError(500, self.failure))])
        else:
            self._waiting.append(ticket)

    def _look_ahead(self, request: Request) -> None:
        try:
            if not self.failure:
                self._scheduler.add_idle(request)
        except Exception as error:  # nobody asked for it, and nobody is to suffer from it
            log.warning("a prompt could not be read ahead: %s", type(error).__name__)

    def _cancel(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        for number in list(ticket.running):
            self._drop(ticket, number)

    def _drop(self, ticket: Ticket, number: int) -> None:
        self._scheduler.cancel(number)
        self._forget(ticket, number)

    def _forget(self, ticket: Ticket, number: int) -> None:
        del ticket.running[number], self._tickets[number]

    def _stop(self) -> None:
        self._stopped = True
        self._fail(self._everyone(), ApiError(503, "the server is stopping", code="draining", retry_after=5))

    def _everyone(self) -> list[Ticket]:
        return [*dict.fromkeys(self._tickets.values()), *self._waiting]

    def _begin(self) -> None:
        """Give the scheduler what there is place for, in order; a ticket's pictures are looked at first, one a turn."""
        while self._waiting:
            ticket = self._waiting[0]
            request = ticket.job.request
            if self._tickets and self.running + request.n > self.plan.parallel:
                return
            if not self._fits(ticket):
                return
            try:
                if ticket.seen < len(request.visuals):
                    self.engine.eyes.features(request.visuals[ticket.seen])
                    ticket.seen += 1
                    return
                numbers = self._scheduler.add(request)
            except Exception as error:
                self._refuse(ticket, error)
                continue
            self._waiting.popleft()
            ticket.running = {number: index for index, number in enumerate(numbers)}
            self._tickets |= dict.fromkeys(numbers, ticket)
            ticket.began = time.perf_counter()
            ticket.mailbox.post([Began()])

    def _fits(self, ticket: Ticket) -> bool:
        """Whether there is memory for the ticket now. If nobody runs who could give some back, it is refused."""
        request = ticket.job.request
        if self._scheduler.has_room(request):
            return True
        if not self._tickets:
            message = "the memory that was free when the server began is taken by something else"
            self._fail([ticket], ApiError(503, message, code="memory", retry_after=30))
        return False

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        """A ticket that cannot begin."""
        log.warning("a request could not begin: %s", type(error).__name__)
        known = isinstance(error, ValueError)
        self._fail([ticket], ApiError(400 if known else 500, str(error) if known else _failed(error)))

    def _pass(self) -> None:
        try:
            tokens = self._scheduler.step()
        except Exception as error:
            self._crashed(error)
            return
        self.passes += 1
        self._crashes = 0
        posts: dict[Mailbox, list[Any]] = {}
        for token in tokens:
            ticket = self._tickets.get(token.answer)
            if ticket is not None:  # else an answer of a ticket that another of its answers has ended
                self._receive(ticket, token, posts.setdefault(ticket.mailbox, []))
        for mailbox, events in posts.items():
            mailbox.post(events)

    def _idle_pass(self) -> None:
        """Read for the prefix cache while nobody waits."""
        try:
            self._scheduler.idle_step()
        except Exception as error:
            log.error("a pass in idle time failed", exc_info=error)
            self.errors += 1

    def _receive(self, ticket: Ticket, token: Any, events: list[Any]) -> None:
        place = ticket.running[token.answer]
        receiver, index = ticket.receivers[place], ticket.first + place
        try:
            pieces = receiver.push(token, ticket.began)
        except Exception as error:
            log.exception("an answer could not be read")
            self.errors += 1
            self._fail([ticket], ApiError(500, _failed(error)))
            return
        for piece in pieces:
            events.append(Piece(index, piece, ticket.untold(place)))
        if receiver.done:
            events.append(Ended(index, ticket.untold(place)))
            if token.last:
                self._forget(ticket, token.answer)
            else:
                self._drop(ticket, token.answer)

    def _crashed(self, error: Exception) -> None:
        """A pass failed: those who were in it have lost their states; the others go on."""
        log.error("a pass of the engine failed", exc_info=error)
        self.errors += 1
        self._crashes += 1
        if self._crashes >= CRASHES:
            self._give_up(f"the engine has stopped: {CRASHES} passes failed one after the other; restart the server")
        else:
            self._fail(dict.fromkeys(self._tickets.values()), ApiError(500, _failed(error)))

    def _give_up(self, sentence: str) -> None:
        self.failure = sentence
        self._fail(self._everyone(), ApiError(500, sentence))

    def _fail(self, tickets: Iterable[Ticket], error: ApiError) -> None:
        for ticket in list(tickets):
            self._cancel(ticket)
            ticket.mailbox.post([Failed(error)])


def _failed(error: Exception) -> str:
    return f"the engine failed while it made this answer ({type(error).__name__}); the server's log says more"
