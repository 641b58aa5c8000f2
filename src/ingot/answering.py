"""One prompt or several, one answer to each or n: what stands beside what, and how all of them run."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.answer import Prompt, Stream, Usage
from ingot.engine import Engine, Request, Scheduler, answer_seed
from ingot.engine.engine import is_count
from ingot.options import Options
from ingot.prompt.stop import StopText

BATCH = 8  # answers that run together unless the caller says (taste: 150 MB of recurrent state at 0.8B)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """A request, what to call its prompt in an error, and who makes receivers of its answers: from a search for stop
    strings, the request, and what the completion begins with. `next_turn` makes of a completion what can be read of the
    conversation's next prompt before it is known (None: nothing)."""

    where: str
    request: Request
    receiver: Callable[[StopText, Request, dict[str, Any]], Any]
    next_turn: Callable[[Any], Request | None] = lambda completion: None

    def receivers(self, options: Options) -> list[Any]:
        """A receiver for each of the request's answers."""
        request = self.request
        return [self.receiver(options.stops(), request, _begun(request, i)) for i in range(options.n)]


def answer(
    engine: Engine,
    jobs: Sequence[Job],
    options: Options,
    several: bool,
    stream: bool,
    batch_size: int | None,
    progress: Progress | None,
) -> Any:
    """The completions of all jobs, which are checked first and then run together: one, or a list where `several` or n
    say so; or a Stream of their pieces."""
    if batch_size is not None and not is_count(batch_size):
        raise ValueError(f"batch_size is {batch_size!r}; it must be a positive number of answers")
    scheduler = engine.scheduler(batch_size or BATCH)
    receivers: list[Any] = []
    completions: list[Any] = []
    for job in jobs:
        with named(job.where):
            scheduler.add(job.request)
        mine = job.receivers(options)
        receivers += mine
        made = [receiver.completion for receiver in mine]
        completions.append(made if options.n > 1 else made[0])
    pieces = _run(scheduler, receivers, progress)
    result = completions if several else completions[0]
    found: Stream[Any, Any] = Stream(pieces if several or options.n > 1 else _alone(pieces), result)
    return found if stream else found.finish()


def _begun(request: Request, index: int) -> dict[str, Any]:
    """What the completion of answer `index` begins with."""
    seed = request.sampling.seed
    return {
        "usage": Usage(prompt_tokens=len(request.ids)),
        "seed": None if seed is None else answer_seed(seed, index),
        "logprobs": None if request.logprobs is None else [],
    }


def _run(scheduler: Scheduler, receivers: Sequence[Any], progress: Progress | None) -> Generator[tuple[int, Any]]:
    """The pieces of all answers as they come, with the numbers of their answers."""
    began, ended = time.perf_counter(), 0
    try:
        while scheduler.unfinished:
            for token in scheduler.step():
                receiver = receivers[token.answer]
                if receiver.done:  # a stop string ended it within the tokens of one pass
                    continue
                pieces = receiver.push(token, began)
                if receiver.done and not token.last:
                    scheduler.cancel(token.answer)
                for piece in pieces:
                    yield token.answer, piece
                ended += receiver.done
                if receiver.done and progress is not None:
                    progress(ended, len(receivers))
    finally:
        scheduler.close()


def _alone(pieces: Generator[tuple[int, Any]]) -> Iterator[Any]:
    """The pieces of the only answer."""
    with closing(pieces):
        for _, piece in pieces:
            yield piece


def are_prompts(prompt: Any) -> bool:
    """Whether it is a list of prompts; a list of integers is one prompt."""
    if isinstance(prompt, str | bytes | Prompt) or not isinstance(prompt, Sequence) or not prompt:
        return False
    first = prompt[0]
    return isinstance(first, str | Prompt | Sequence) or (isinstance(first, np.ndarray) and first.ndim > 0)


def are_conversations(messages: Any) -> bool:
    """Whether it is a list of lists of messages; a list of messages is one conversation."""
    is_list = isinstance(messages, Sequence) and not isinstance(messages, str | bytes) and len(messages) > 0
    return is_list and isinstance(messages[0], Sequence) and not isinstance(messages[0], str | bytes)


def each(name: str, given: Any, several: bool) -> Iterator[tuple[str, Any]]:
    """What to call it in an error, and the thing: one, or each of several."""
    if not several:
        yield "", given
        return
    for number, one in enumerate(given):
        yield f"{name}[{number}]", one


@contextmanager
def named(where: str) -> Iterator[None]:
    """A ValueError inside says which of several prompts it is about."""
    try:
        yield
    except ValueError as error:
        if not where:
            raise
        raise ValueError(f"{where}: {error}") from None
