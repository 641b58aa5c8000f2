"""What handlers and the engine's thread give each other: tickets one way, events the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ingot.answer import TokenLogprob
from ingot.answering import Job
from ingot.options import Options
from ingot.serve.errors import ApiError


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
    checked: Any = None  # its request, in the form in which the scheduler has it; None: the scheduler has it
    began: float = 0.0
    due: float = 0.0  # its place among those that wait
    features: list[Any] = field(default_factory=list)  # of its pictures, until its prompt is read; None: not needed
    reads: bool = False  # its prompt is being read
    running: dict[int, int] = field(default_factory=dict)  # the scheduler's number -> index among the receivers
    told: dict[int, int] = field(default_factory=dict)  # index -> logprobs that are on their way

    @classmethod
    def of(cls, job: Job, options: Options, mailbox: Mailbox, first: int) -> Ticket:
        """A ticket for all answers to the job."""
        return cls(job, job.receivers(options), mailbox, first)

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are still to be read, at most."""
        return len(self.job.request.ids) if self.reads or not self.began else 0

    def untold(self, place: int) -> Sequence[TokenLogprob]:
        """The logprobs of an answer's tokens that no piece has brought yet."""
        known = self.receivers[place].completion.logprobs or []
        begin, self.told[place] = self.told.get(place, 0), len(known)
        return known[begin:]
