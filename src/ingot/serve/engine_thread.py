"""The thread that owns the model. Everyone else sends it tickets and gets events back; nothing else is shared.

    submit, cancel, stop  ->  inbox  ->  waiting  ->  scheduler  ->  receivers  ->  mailboxes

A turn of its loop reads the inbox, begins what there is place for, and makes one pass: so a cancelled answer ends
within a pass. A picture is encoded between passes, and its work pauses for the turns of the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any

from ingot.engine import Request
from ingot.engine.sequence import pages_of
from ingot.language_model import LanguageModel
from ingot.serve.errors import ApiError
from ingot.serve.pace import Pace
from ingot.serve.plan import Plan
from ingot.serve.tickets import Began, Ended, Failed, Mailbox, Piece, Ticket
from ingot.serve.waiting import Waiting

log = logging.getLogger("ingot.serve")

# Seconds of a pass that reads a prompt, or of a picture's encoding between two passes, while others' answers go on
# (taste: a stream that pauses so long still flows).
SLICE_S = 0.2
CRASHES = 3  # passes that fail one after the other before the engine is given up (taste)


class DroppedError(Exception):
    """The ticket whose picture is being encoded waits no more."""


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
        self._waiting = Waiting()
        self._tickets: dict[int, Ticket] = {}  # by the scheduler's numbers of their answers
        self._crashes = 0
        self._stopped = self._ended = False
        self._pace = Pace()

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
    def work_s(self) -> float:
        """Seconds that what waits and runs will about take, as measured so far."""
        asked = [(ticket, ticket.job.request) for ticket in self._everyone()]
        together = max(1, min(self.plan.parallel, sum(request.n for _, request in asked)))
        seconds = self._pace.seconds
        return sum(seconds(ticket.unread, request.max_tokens, request.n, together) for ticket, request in asked)

    @property
    def has_ended(self) -> bool:
        """Whether it will do nothing more though nobody has stopped it."""
        return not self._stopped and (self._ended or self.failure is not None)

    def ill(self, limit: float) -> str | None:
        """Why nobody is answered any more, in a sentence; None while all is well. A pass may take `limit` seconds; 0:
        any."""
        still = time.monotonic() - self.turned
        if self.has_ended:
            return self.failure or "the engine's thread has ended"
        return f"the engine has not ended a pass for {still:.0f} seconds" if self.busy and still > limit > 0 else None

    def abandon(self, sentence: str) -> None:
        """Tell everyone that there will be no more; called by another thread when this one no longer comes round."""
        self.failure = sentence
        for ticket in self._everyone():
            ticket.mailbox.post([Failed(ApiError(503, sentence, code="engine_failed", retry_after=5))])

    @property
    def tokens_held(self) -> int:
        """Tokens that running answers have taken room for, in whole pages."""
        return self.engine.states.tokens_held

    def run(self) -> None:
        """The thread's life. After an error outside of a pass it lives on to refuse what comes."""
        try:
            self._guarded(self._reserve)
            while not self._stopped:
                self._guarded(self._turn)
            self._scheduler.close()
        finally:
            self._ended, self.busy = True, False

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except Exception as error:
            log.exception("the engine has stopped")
            self._give_up(f"the engine has stopped after an error ({type(error).__name__}); restart the server")

    def _turn(self) -> None:
        self._read_inbox()
        waits_for_eyes = self._go_on()
        if waits_for_eyes is not None and waits_for_eyes in self._waiting:
            self._look(waits_for_eyes)
        elif not self._scheduler.unfinished and self._scheduler.has_idle_work:
            self._idle_pass()
        self.turned = time.monotonic()

    def _go_on(self) -> Ticket | None:
        """Begin what can begin, make a pass; the ticket whose picture is to be encoded next."""
        looks = self._begin()
        if self._scheduler.unfinished:
            self._pass()
        return looks

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
                self._wait()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            pass

    def _wait(self) -> None:
        """For what is sent, or until there is idle work."""
        try:
            first = self._inbox.get(timeout=self._scheduler.rests_s)
        finally:
            self.turned, self.busy = time.monotonic(), True
        first()

    def _take(self, ticket: Ticket) -> None:
        if self.failure:
            ticket.mailbox.post([Failed(ApiError(500, self.failure))])
            return
        try:
            ticket.checked = self._scheduler.checked(ticket.job.request)
        except Exception as error:
            self._refuse(ticket, error)
            return
        self._waiting.add(ticket, time.monotonic())

    def _look_ahead(self, request: Request) -> None:
        try:
            if not self.failure:
                self._scheduler.add_idle(request)
        except Exception as error:  # nobody asked for it, and nobody is to suffer from it
            log.warning("a prompt could not be read ahead: %s", type(error).__name__)

    def _cancel(self, ticket: Ticket) -> None:
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

    def _begin(self) -> Ticket | None:
        """Give the scheduler what there is place for, in order. One with pictures that are not encoded yet keeps its
        place meanwhile, and lets others begin; the first such is returned."""
        looks: list[Ticket] = []
        for ticket in self._waiting:
            if not self._has_place(ticket, sum(one.job.request.n for one in looks)):
                break
            if len(ticket.features) < len(ticket.job.request.visuals):
                looks.append(ticket)
            else:
                self._start(ticket)
        return looks[0] if looks else None

    def _has_place(self, ticket: Ticket, kept: int) -> bool:
        taken = self.running + kept
        return (not taken or taken + ticket.job.request.n <= self.plan.parallel) and self._fits(ticket, bool(taken))

    def _start(self, ticket: Ticket) -> None:
        try:
            numbers = self._scheduler.add(ticket.checked)
        except Exception as error:
            self._refuse(ticket, error)
            return
        self._waiting.remove(ticket)
        ticket.checked = None
        ticket.running = {number: index for index, number in enumerate(numbers)}
        self._tickets |= dict.fromkeys(numbers, ticket)
        ticket.began, ticket.reads = time.perf_counter(), True
        ticket.mailbox.post([Began()])

    def _look(self, ticket: Ticket) -> None:
        """Encode the ticket's next picture; every `SLICE_S`, and when something is sent, the others have their turn."""
        turned = time.monotonic()

        def pause() -> None:
            nonlocal turned
            self.turned = time.monotonic()
            if self.turned - turned >= SLICE_S or not self._inbox.empty():
                self._read_inbox()
                self._go_on()
                turned = time.monotonic()
            if ticket not in self._waiting:
                raise DroppedError

        request = ticket.job.request
        visual = request.visuals[len(ticket.features)]
        try:
            if visual.rows[-1] < self._scheduler.known(ticket.checked):
                ticket.features.append(None)  # its tokens will not be read
                return
            ticket.features.append(self.engine.eyes.features(visual, pause))
        except DroppedError:
            pass
        except Exception as error:
            self._refuse(ticket, error)

    def _fits(self, ticket: Ticket, others: bool) -> bool:
        """Whether there is memory for the ticket now. Without others who could give some back, it is refused."""
        if self._scheduler.has_room(ticket.checked):
            return True
        if not others:
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
        began = self._scheduler.pass_began
        if began is not None:
            self.passes += 1
            self._crashes = 0
            self._pace.passed(time.perf_counter() - began, self._scheduler.pass_read > 0)
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
        if ticket.reads:
            ticket.reads, ticket.features = False, []
            self._pace.read(len(ticket.job.request.ids) - (token.reuse.cached if token.reuse else 0))
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
            self._pace.answered(receiver.completion.usage.completion_tokens)
            if token.last:
                self._forget(ticket, token.answer)
            else:
                self._drop(ticket, token.answer)

    def _crashed(self, error: Exception) -> None:
        """A step failed: those who were in its pass have lost their states, or one could not begin; the others go
        on."""
        log.error("a pass of the engine failed", exc_info=error)
        self.errors += 1
        unharmed = self._scheduler.unharmed
        lost = [ticket for number, ticket in self._tickets.items() if number not in unharmed]
        self._crashes += self._scheduler.pass_began is not None or not lost
        if self._crashes >= CRASHES:
            self._give_up(f"the engine has stopped: {CRASHES} passes failed one after the other; restart the server")
        else:
            self._fail(dict.fromkeys(lost), ApiError(500, _failed(error)))

    def _give_up(self, sentence: str) -> None:
        self.failure = sentence
        self._fail(self._everyone(), ApiError(500, sentence))

    def _fail(self, tickets: Iterable[Ticket], error: ApiError) -> None:
        for ticket in list(tickets):
            self._cancel(ticket)
            ticket.mailbox.post([Failed(error)])


def _failed(error: Exception) -> str:
    return f"the engine failed while it made this answer ({type(error).__name__}); the server's log says more"
