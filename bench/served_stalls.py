"""How long a stream stands still while somebody else's long prompt is read, with slices bounded in time and without.

`python -m bench.served_stalls --size 0.8B --format q4` runs the server's engine thread without HTTP. With
`--picture 1024x768` it is a picture that comes in the middle of the stream, and one that is cancelled. With
`--disk 65536` the long prompt has so many tokens, and all but the last comes from disk. Speed only: the weights are
random, and what the disk gives are zeros.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import ingot
from bench.arguments import WORK
from bench.checkpoints import official_shape
from ingot.answering import Job
from ingot.engine.disk import Disk
from ingot.engine.keys import Keys, keys_of
from ingot.language_model import LanguageModel
from ingot.memory import available
from ingot.ops import PAGE
from ingot.options import Options
from ingot.serve import engine_thread
from ingot.serve.engine_thread import EngineThread
from ingot.serve.plan import plan
from ingot.serve.tickets import Ended, Failed, Ticket
from ingot.store.journal import Journal

LONG, SHORT, STREAM = 3000, 30, 120  # tokens of the prompts, and of the answer that goes on


class Watch:
    """A mailbox that notes when each token of its answer came."""

    def __init__(self) -> None:
        self.asked, self.times, self.over = time.perf_counter(), list[float](), threading.Event()

    def note(self, events: Sequence[Any]) -> None:
        self.times.append(time.perf_counter())
        self.post(events)

    def post(self, events: Sequence[Any]) -> None:
        if any(isinstance(event, Ended | Failed) for event in events):
            self.over.set()


class WatchedThread(EngineThread):
    """Tells of tokens that complete no text too: random weights come without a tokenizer."""

    def _receive(self, ticket: Ticket, token: Any, events: list[Any]) -> None:
        super()._receive(ticket, token, events)
        ticket.mailbox.note(())  # type: ignore[attr-defined]


def submitted(engine: EngineThread, job: Job, options: Options) -> tuple[Ticket, Watch]:
    """The request, on its way."""
    watch = Watch()
    ticket = Ticket.of(job, options, watch, 0)
    engine.submit(ticket)
    return ticket, watch


def asked(engine: EngineThread, tokens: int, answer: int) -> Watch:
    """A request for `answer` tokens after random ids."""
    options = Options(max_tokens=answer, ignore_eos=True, sampling={"temperature": 0})
    return submitted(engine, engine.model.text_job(random_ids(tokens).tolist(), options), options)[1]


def random_ids(tokens: int) -> np.ndarray:
    """The same for the same number."""
    return np.random.default_rng(tokens).integers(0, 200_000, tokens)


def shown(engine: EngineThread, width: int, height: int, seed: int) -> tuple[Ticket, Watch]:
    """A request about a random picture."""
    options = Options(max_tokens=2, ignore_eos=True, sampling={"temperature": 0})
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    message = {"role": "user", "content": [{"type": "image", "image": image}]}
    return submitted(engine, engine.model.chat_job([message], None, None, options), options)


@contextlib.contextmanager
def running(model: LanguageModel, slice_s: float, context: int = 8192) -> Iterator[EngineThread]:
    """The engine's thread, its slices bounded so."""
    engine_thread.SLICE_S = slice_s
    engine = WatchedThread(model, plan(model.engine, 4, context, available()))
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    yield engine
    engine.stop()
    thread.join()


def gone_on(engine: EngineThread, answer: int) -> tuple[Watch, int]:
    """A stream that has run for 1.5 seconds, and its tokens so far."""
    stream = asked(engine, 20, answer)
    time.sleep(1.5)
    return stream, len(stream.times)


def paces(stream: Watch, before: int, after: int, meanwhile: str) -> str:
    """How often a token came up to the one numbered `before`, and from there to `after`."""
    gaps = [1000 * (b - a) for a, b in pairwise(stream.times)]
    alone, beside = statistics.median(gaps[: before - 1]), gaps[before - 1 : after - 1]
    return (
        f"a token every {alone:.0f} ms alone; while {meanwhile} every {statistics.median(beside):.0f} ms, "
        f"longest {max(beside):.0f}"
    )


def measured(model: LanguageModel, slice_s: float) -> str:
    """One run: a stream; half a way through it a long prompt, and then a short one."""
    with running(model, slice_s) as engine:
        asked(engine, 300, 8).over.wait()
        stream, before = gone_on(engine, STREAM)
        long = asked(engine, LONG, 2)
        time.sleep(0.5)
        short = asked(engine, SHORT, 2)
        short.over.wait(), long.over.wait()
        after = len(stream.times)
        stream.over.wait()
    return (
        f"slice {slice_s:g} s: {paces(stream, before, after, f'{LONG:,} tokens are read')}; first token of the long "
        f"prompt after {long.times[0] - long.asked:.1f} s, of {SHORT} tokens beside it after "
        f"{short.times[0] - short.asked:.2f} s"
    )


def measured_picture(model: LanguageModel, slice_s: float, width: int, height: int) -> str:
    """One run: a stream; half a way through it a picture, and then one whose client leaves."""
    model.engine.eyes._kept.clear()
    with running(model, slice_s) as engine:
        shown(engine, 64, 64, 0)[1].over.wait()  # the tower is loaded
        stream, before = gone_on(engine, 20 * STREAM)
        _, seen = shown(engine, width, height, 1)
        seen.over.wait()
        after = len(stream.times)
        ticket, _ = shown(engine, width, height, 2)
        time.sleep(0.5)
        began = time.perf_counter()
        engine.cancel(ticket)
        while engine.waiting:
            time.sleep(0.001)
        cancelled = time.perf_counter() - began
    return (
        f"slice {slice_s:g} s: {paces(stream, before, after, f'{width} x {height} pixels are seen')}; first token "
        f"about the picture after {seen.times[0] - seen.asked:.1f} s; a second one is dropped "
        f"{1000 * cancelled:.0f} ms after its client left"
    )


@contextlib.contextmanager
def written(model: LanguageModel, tokens: int, directory: Path) -> Iterator[None]:
    """The engine has a state on disk behind all but the last of so many tokens."""
    engine = model.engine
    states, cache, ids = engine.states, engine.cache, random_ids(tokens)
    journal = Journal(directory, "bench", bytes(32), size=1 << 40)
    cache.disk, cache.budget = Disk(cache, journal), 1 << 40
    sequence = states.open()
    sequence.keys = Keys(keys_of(ids[:-1], None))
    cache.begin(sequence, "")
    states.reserve(sequence, tokens)
    while PAGE * len(sequence.pages) < tokens - 1:
        states.add_page(sequence)
    sequence.length = tokens - 1
    cache.disk.note(cache.donate(sequence, "breakpoint"))
    cache.disk.finish(600)
    cache.clear()
    yield
    journal.close()


def measured_disk(model: LanguageModel, slice_s: float, tokens: int) -> str:
    """One run: a stream; half a way through it a prompt that the disk has."""
    with running(model, slice_s, tokens + STREAM) as engine:
        asked(engine, 300, 8).over.wait()
        stream, before = gone_on(engine, 5 * STREAM)
        long = asked(engine, tokens, 1)
        long.over.wait()
        after = len(stream.times) + 1
        stream.over.wait()
    disk = model.engine.cache.disk
    assert disk.tokens == tokens - 1, "the disk gave nothing"
    disk.tokens = 0
    model.engine.cache.clear()
    return (
        f"slice {slice_s:g} s: {paces(stream, before, after, f'{tokens:,} tokens come from disk')}; first token of "
        f"that prompt after {long.times[0] - long.asked:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8B")
    parser.add_argument("--format", default="q4")
    parser.add_argument("--picture", metavar="WIDTHxHEIGHT")
    parser.add_argument("--disk", metavar="TOKENS", type=int)
    args = parser.parse_args()
    size = [int(side) for side in args.picture.split("x")] if args.picture else []
    model = ingot.load(official_shape(args.size, WORK, vision=bool(size)), weights=args.format)
    slices = 1e9, engine_thread.SLICE_S
    if args.disk:
        with tempfile.TemporaryDirectory(dir=WORK) as directory, written(model, args.disk, Path(directory)):
            for slice_s in slices:
                print(measured_disk(model, slice_s, args.disk), flush=True)
        return
    for slice_s in slices:
        print(measured_picture(model, slice_s, *size) if size else measured(model, slice_s), flush=True)


if __name__ == "__main__":
    main()
