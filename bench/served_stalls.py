"""How long a stream stands still while somebody else's long prompt is read, with slices bounded in time and without.

`python -m bench.served_stalls --size 0.8B --format q4` runs the server's engine thread without HTTP. With
`--picture 1024x768` it is a picture that comes in the middle of the stream, and one that is cancelled. Speed only: the
weights are random.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

import ingot
from bench.checkpoints import official_shape
from bench.side_by_side import WORK
from ingot.language_model import LanguageModel
from ingot.memory import available
from ingot.options import Options
from ingot.serve import engine_thread
from ingot.serve.engine_thread import EngineThread
from ingot.serve.plan import plan
from ingot.serve.tickets import Ended, Failed, Ticket

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


def asked(engine: EngineThread, tokens: int, answer: int) -> Watch:
    """A request for `answer` tokens after random ids."""
    watch, options = Watch(), Options(max_tokens=answer, ignore_eos=True, sampling={"temperature": 0})
    ids = np.random.default_rng(tokens).integers(0, 200_000, tokens)
    engine.submit(Ticket.of(engine.model.text_job(ids.tolist(), options), options, watch, 0))
    return watch


def measured(model: LanguageModel, slice_s: float) -> str:
    """One run: a stream; half a way through it a long prompt, and then a short one."""
    engine_thread.SLICE_S = slice_s
    engine = WatchedThread(model, plan(model.engine, 4, 8192, available()))
    threading.Thread(target=engine.run, daemon=True).start()
    asked(engine, 300, 8).over.wait()
    stream = asked(engine, 20, STREAM)
    time.sleep(1.5)
    before, long = len(stream.times), asked(engine, LONG, 2)
    time.sleep(0.5)
    short = asked(engine, SHORT, 2)
    short.over.wait(), long.over.wait()
    after = len(stream.times)
    stream.over.wait()
    engine.stop()
    gaps = [1000 * (b - a) for a, b in pairwise(stream.times)]
    alone, beside = statistics.median(gaps[: before - 1]), gaps[before - 1 : after - 1]
    return (
        f"slice {slice_s:g} s: a token every {alone:.0f} ms alone; while {LONG:,} tokens are read every "
        f"{statistics.median(beside):.0f} ms, longest {max(beside):.0f}; first token of the long prompt after "
        f"{long.times[0] - long.asked:.1f} s, of {SHORT} tokens beside it after {short.times[0] - short.asked:.2f} s"
    )


def shown(engine: EngineThread, width: int, height: int, seed: int) -> tuple[Ticket, Watch]:
    """A request about a random picture."""
    watch, options = Watch(), Options(max_tokens=2, ignore_eos=True, sampling={"temperature": 0})
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    message = {"role": "user", "content": [{"type": "image", "image": image}]}
    job = engine.model.chat_job([message], None, None, options)
    watch.asked = time.perf_counter()
    ticket = Ticket.of(job, options, watch, 0)
    engine.submit(ticket)
    return ticket, watch


def measured_picture(model: LanguageModel, slice_s: float, width: int, height: int) -> str:
    """One run: a stream; half a way through it a picture, and then one whose client leaves."""
    engine_thread.SLICE_S = slice_s
    model.engine.eyes._kept.clear()
    engine = WatchedThread(model, plan(model.engine, 4, 8192, available()))
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    shown(engine, 64, 64, 0)[1].over.wait()  # the tower is loaded
    stream = asked(engine, 20, 20 * STREAM)
    time.sleep(1.5)
    before, (_, seen) = len(stream.times), shown(engine, width, height, 1)
    seen.over.wait()
    after = len(stream.times)
    ticket, _ = shown(engine, width, height, 2)
    time.sleep(0.5)
    began = time.perf_counter()
    engine.cancel(ticket)
    while engine.waiting:
        time.sleep(0.001)
    cancelled = time.perf_counter() - began
    engine.stop()
    thread.join()
    gaps = [1000 * (b - a) for a, b in pairwise(stream.times)]
    alone, beside = statistics.median(gaps[: before - 1]), gaps[before - 1 : after - 1]
    return (
        f"slice {slice_s:g} s: a token every {alone:.0f} ms alone; while {width} x {height} pixels are seen every "
        f"{statistics.median(beside):.0f} ms, longest {max(beside):.0f}; first token about the picture after "
        f"{seen.times[0] - seen.asked:.1f} s; a second one is dropped {1000 * cancelled:.0f} ms after its client left"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8B")
    parser.add_argument("--format", default="q4")
    parser.add_argument("--picture", metavar="WIDTHxHEIGHT")
    args = parser.parse_args()
    size = [int(side) for side in args.picture.split("x")] if args.picture else []
    model = ingot.load(official_shape(args.size, WORK, vision=bool(size)), weights=args.format)
    for slice_s in (1e9, engine_thread.SLICE_S):
        print(measured_picture(model, slice_s, *size) if size else measured(model, slice_s), flush=True)


if __name__ == "__main__":
    main()
