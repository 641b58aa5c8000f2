"""Restored from disk == uncached, to the bit, after a restart too; and what is missing or damaged is only slower."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot
from ingot.engine import Engine, Mark, Request, SamplingParams
from ingot.engine.disk import PAGE_RECORD, SNAPSHOT_RECORD, Disk
from ingot.engine.keys import chained, origin
from ingot.engine.scheduler import Scheduler
from ingot.engine.sequence import pages_of
from ingot.model import build
from ingot.ops import PAGE, reference
from ingot.spec.cost import kv_bytes, state_bytes
from ingot.store.journal import Journal
from ingot.store.record_folder import survey
from tests.engine.accounts import check_accounts, held, poison
from tests.model.small import small_config, weights

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

CONFIG = small_config()
STATE = state_bytes(CONFIG)
OPS = native.OpSet(threads=1)
ROOTS: dict[str, Any] = {}
IDENTITY = bytes(32)
TEXT = np.random.default_rng(7).integers(0, CONFIG.text.vocab_size, 600)
Start = Callable[..., Engine]


def engine(kv: str, states: int = 30, ops: Any = OPS, fmt: str = "q8") -> Engine:
    name = f"{ops} {fmt}"
    if name not in ROOTS:
        ROOTS[name] = build(CONFIG, ops, weights(), fmt)
    made = Engine(ROOTS[name], ops, CONFIG, kv=kv, cache_bytes=states * STATE)
    poison(made)
    return made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A process's engine, with what those before it left on disk."""
    made: list[Journal] = []

    def started(kv: str = "bf16", **options: Any) -> Engine:
        if made:
            made[-1].close()
        found = engine(kv, **options)
        made.append(Journal(tmp_path / "prefix", kv, IDENTITY, size=1 << 30))
        assert made[-1].flush(100)
        found.cache.disk = Disk(found.cache, made[-1], least=32)
        return found

    yield started
    for each in made:
        each.close()


def asked(ids: Any, *marks: Mark, **changes: Any) -> Request:
    settings = {"sampling": SamplingParams(temperature=1.0, seed=5), "max_tokens": 4, "logprobs": 3}
    return Request(np.asarray(ids), marks=marks, **{**settings, **changes})


def answer(made: Engine, request: Request) -> tuple[list[Any], Any]:
    """What is said, and what was reused."""
    scheduler, tokens = Scheduler(made, 2), []
    scheduler.add(request)
    while scheduler.unfinished:
        tokens += scheduler.step()
    check_accounts(made, scheduler)
    scheduler.close()
    assert made.cache.disk is None or made.cache.disk.journal.flush(100)  # what is being written is not found yet
    return [(token.id, token.logprob, token.top) for token in tokens], tokens[0].reuse


def state_of(made: Engine, ids: np.ndarray, salt: str = "") -> bytes:
    """All bits that a sequence remembers after a prompt, however it came there; of a page only what is filled."""
    scheduler = Scheduler(made, 1)
    scheduler.add(asked(ids, salt=salt, max_tokens=2))
    while not scheduler.step():
        pass
    (run,) = scheduler._runs
    sequence, states = run.sequence, made.states
    rows = [array[sequence.slot] for array in states.slot_arrays()]
    rows += [array[page] for page in sequence.pages[: sequence.length // PAGE] for array in states.page_arrays()]
    found = b"".join(np.ascontiguousarray(row).tobytes() for row in rows)
    scheduler.cancel(run.answer)
    return found


@pytest.mark.parametrize("kv", ["f32", "bf16", "q8"])
@pytest.mark.parametrize("turn", [40, 64, 128, 201, 255])
def test_restored_is_uncached_after_a_restart(start: Start, kv: str, turn: int) -> None:
    first = start(kv)
    answer(first, asked(TEXT[:turn], Mark(turn - 3, "turn")))
    for length in (turn, turn + 70, turn + 200):
        wanted, _ = answer(engine(kv, states=0), asked(TEXT[:length]))
        again = start(kv)
        found, reuse = answer(again, asked(TEXT[:length]))
        assert found == wanted
        assert (reuse.cached, reuse.disk) == (turn - 3, turn - 3)
        assert reuse.matched >= turn - 3
        cold = state_of(engine(kv, states=0), TEXT[:length])
        assert state_of(start(kv), TEXT[:length]) == cold


def test_on_the_reference_op_set_too(start: Start) -> None:
    options = {"ops": reference, "fmt": "f32"}
    answer(start("f32", **options), asked(TEXT[:150], Mark(140, "turn")))
    wanted, _ = answer(engine("f32", states=0, **options), asked(TEXT[:140].tolist() + [3] * 9))
    found, reuse = answer(start("f32", **options), asked(TEXT[:140].tolist() + [3] * 9))
    assert reuse.disk == 140
    assert [token for token, *_ in found] == [token for token, *_ in wanted]
    # what is restored is what was written; numpy's own products depend on how many rows they have
    assert np.allclose([token[1] for token in found], [token[1] for token in wanted], atol=1e-4)


def test_memory_is_asked_first_and_both_together(start: Start) -> None:
    made = start()
    answer(made, asked(TEXT[:300], Mark(290, "turn")))
    assert answer(made, asked(TEXT[:300]))[1].disk == 0, "memory has it"
    for snapshot in made.cache.snapshots:
        if snapshot.position != 130:
            made.cache.drop(snapshot)
    answer(made, asked(TEXT[:140], Mark(130, "turn")))
    for snapshot in made.cache.snapshots:
        if snapshot.position != 130:
            made.cache.drop(snapshot)
    wanted, _ = answer(engine("bf16", states=0), asked(TEXT[:300]))
    found, reuse = answer(made, asked(TEXT[:300]))
    assert found == wanted
    assert (reuse.cached, reuse.disk) == (290, 290 - 128), "two pages are in memory"


def test_what_memory_forgets_is_found_on_disk(start: Start) -> None:
    made = start(states=2)
    for n in range(5):
        answer(made, asked(np.r_[n, TEXT[:200]], Mark(190, "turn")))
    assert made.cache.evictions
    for n in range(5):
        wanted, _ = answer(engine("bf16", states=0), asked(np.r_[n, TEXT[:200]]))
        found, reuse = answer(made, asked(np.r_[n, TEXT[:200]]))
        assert found == wanted
        assert reuse.cached >= 190


@pytest.mark.parametrize("hole", [0, 1, 2])
def test_a_missing_page_ends_the_match(start: Start, hole: int) -> None:
    answer(start(), asked(TEXT[:250], Mark(70, "system"), Mark(130, "breakpoint"), Mark(240, "turn")))
    wanted, _ = answer(engine("bf16", states=0), asked(TEXT[:250]))
    made, digest = start(), origin("")
    for page in range(hole + 1):
        digest = chained(digest, _keys(TEXT)[PAGE * page : PAGE * (page + 1)])
    journal: Any = made.cache.disk.journal
    journal._forget(journal.find(digest))
    found, reuse = answer(made, asked(TEXT[:250]))
    assert found == wanted
    assert reuse.disk == (0, 70, 130)[hole]


def _keys(ids: np.ndarray) -> np.ndarray:
    from ingot.engine.keys import keys_of

    return keys_of(ids, None)


@pytest.mark.parametrize("kind", [PAGE_RECORD, SNAPSHOT_RECORD])
def test_damage_is_a_miss_and_is_computed_and_written_again(start: Start, tmp_path: Path, kind: int) -> None:
    answer(start(), asked(TEXT[:250], Mark(240, "turn")))
    made = start()
    (file,) = survey(tmp_path / "prefix")
    data = bytearray(file.path.read_bytes())
    for record in made.cache.disk.journal._index:
        if record.kind == kind:
            data[record.at + record.nbytes // 2] ^= 4
    file.path.write_bytes(data)
    wanted, _ = answer(engine("bf16", states=0), asked(TEXT[:250]))
    found, reuse = answer(made, asked(TEXT[:250], Mark(240, "turn")))
    assert (found, reuse.disk) == (wanted, 0)
    assert made.cache.disk.journal.counts.damaged == 1
    found, reuse = answer(start(), asked(TEXT[:250]))
    assert (found, reuse.disk) == (wanted, 240 if kind == SNAPSHOT_RECORD else 0)


def test_the_last_token_is_read_whatever_the_disk_has(start: Start) -> None:
    answer(start(), asked(TEXT[:250], Mark(250, "turn"), Mark(190, "breakpoint")))
    wanted, _ = answer(engine("bf16", states=0), asked(TEXT[:250]))
    found, reuse = answer(start(), asked(TEXT[:250]))
    assert (found, reuse.disk) == (wanted, 190)
    assert answer(start(), asked(TEXT[:251]))[1].disk == 250


def test_a_failed_reading_leaves_no_page_behind(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(start(), asked(TEXT, Mark(590, "turn")))
    made = start()
    answer(made, asked(TEXT[:400], Mark(390, "turn")))

    def broken(*_: Any) -> bool:
        made.cache.clear()  # memory was needed for the pages
        return False

    monkeypatch.setattr(made.cache.disk.journal, "read", broken)
    scheduler = Scheduler(made, 1)
    (number,) = scheduler.add(asked(TEXT))
    scheduler.step()
    check_accounts(made, scheduler)
    scheduler.cancel(number)
    scheduler.close()
    check_accounts(made)


class Clock:
    """Goes on by what is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._patch = 0.0, monkeypatch
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def takes(self, seconds: float, owner: Any, name: str) -> None:
        """A method takes so long from now on."""
        done = getattr(owner, name)

        def slow(*args: Any) -> Any:
            self.now += seconds
            return done(*args)

        self._patch.setattr(owner, name, slow)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Restoring:
    """A process in which an answer goes on while the disk gives a long prompt back, a record a step."""

    def __init__(self, made: Engine, **options: Any) -> None:
        self.engine, self.scheduler, self.told = made, Scheduler(made, 3, 0.0, **options), list[Any]()
        self.scheduler.add(asked([1, 2, 3], max_tokens=60))
        self.step()

    def step(self) -> list[int]:
        """Who was given a token."""
        tokens = self.scheduler.step()
        self.told += tokens
        check_accounts(self.engine, self.scheduler)
        return [token.answer for token in tokens]

    @property
    def coming(self) -> bool:
        return any(waiting.coming is not None for waiting in self.scheduler._waiting)

    def end(self) -> None:
        while self.scheduler.unfinished:
            self.step()
        self.scheduler.close()
        check_accounts(self.engine)

    def of(self, number: int) -> list[Any]:
        """What an answer said."""
        return [(token.id, token.logprob, token.top) for token in self.told if token.answer == number]


@pytest.fixture
def restoring(start: Start) -> Restoring:
    answer(start(), asked(TEXT, Mark(590, "turn")))
    return Restoring(start())


def test_streams_go_on_while_the_disk_gives_something_back(restoring: Restoring) -> None:
    (number,) = restoring.scheduler.add(asked(TEXT))
    assert restoring.step() == [0]
    steps = 1
    while restoring.coming:
        assert restoring.step()[0] == 0
        steps += 1
    assert steps == 1 + 590 // PAGE + 1  # pages, and the snapshot with what is behind them
    restoring.end()
    assert restoring.of(number) == answer(engine("bf16", states=0), asked(TEXT))[0]
    (first,) = [token.reuse for token in restoring.told if token.answer == number and token.reuse]
    assert (first.cached, first.disk) == (590, 590)


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_what_is_coming_from_disk_can_be_cancelled(restoring: Restoring, steps: int) -> None:
    numbers = restoring.scheduler.add(asked(TEXT, n=2))
    for _ in range(steps):
        restoring.step()
    assert restoring.coming
    restoring.engine.cache.clear()  # and what it shared is nobody's but its own
    for number in numbers:
        restoring.scheduler.cancel(number)
        check_accounts(restoring.engine, restoring.scheduler)
    assert not restoring.coming
    restoring.end()
    assert {token.answer for token in restoring.told} == {0}


def test_pages_that_are_in_memory_are_kept_while_the_rest_comes(start: Start) -> None:
    answer(start(), asked(TEXT, Mark(590, "turn")))
    made = start()
    answer(made, asked(TEXT[:200], Mark(192, "turn"), max_tokens=1))
    restoring = Restoring(made)
    (number,) = restoring.scheduler.add(asked(TEXT))
    restoring.step()
    made.cache.clear()
    check_accounts(made, restoring.scheduler)
    restoring.end()
    assert restoring.of(number) == answer(engine("bf16", states=0), asked(TEXT))[0]
    assert made.cache.disk.tokens == 590 - 192


@pytest.mark.parametrize("together", [False, True])
def test_who_comes_meanwhile_waits_and_finds_it_in_memory(restoring: Restoring, together: bool) -> None:
    (first,) = restoring.scheduler.add(asked(TEXT))
    if not together:
        restoring.step()
    (second,) = restoring.scheduler.add(asked(np.r_[TEXT[:595], 4, 5]))
    restoring.step()
    assert held(restoring.scheduler) == {first, second}
    restoring.end()
    assert restoring.engine.cache.disk.hits == 1
    assert restoring.of(second) == answer(engine("bf16", states=0), asked(np.r_[TEXT[:595], 4, 5]))[0]
    (reuse,) = [token.reuse for token in restoring.told if token.answer == second and token.reuse]
    assert (reuse.cached, reuse.disk) == (590, 0)


def test_who_parts_from_it_before_its_end_does_not_wait_for_it(restoring: Restoring) -> None:
    """No snapshot will be kept there."""
    restoring.scheduler.add(asked(TEXT))
    restoring.step()
    (number,) = restoring.scheduler.add(asked(np.r_[TEXT[:100], 4, 5, 6], max_tokens=2))
    assert number in restoring.step()
    restoring.end()


def test_it_has_its_place(restoring: Restoring) -> None:
    numbers = [*restoring.scheduler.add(asked(TEXT)), *restoring.scheduler.add(asked([7, 8, 9], n=2))]
    while restoring.step() == [0]:
        assert restoring.scheduler.running == 1, "three run at most"
    restoring.end()
    assert {token.answer for token in restoring.told} == {0, *numbers}


@pytest.mark.parametrize("missing", [0, 1])
def test_its_room_is_counted_once(start: Start, missing: int) -> None:
    """One more begins beside it where just so much is left."""
    answer(start(), asked(TEXT, Mark(590, "turn")))
    made = start()
    made.cache.budget = 3 * STATE  # what it restores is not kept
    made.states.prepare(3, pages_of(63) + pages_of(604) + pages_of(6) - missing)
    restoring = Restoring(made)
    restoring.scheduler.add(asked(TEXT))
    restoring.step()
    (number,) = restoring.scheduler.add(asked([7, 8, 9], max_tokens=3))
    assert (number in restoring.step()) == (missing == 0)
    assert restoring.coming
    restoring.end()


def test_who_no_longer_fits_is_told_and_left(start: Start) -> None:
    """Memory was taken by something else since it was added."""
    made = start()
    scheduler = Scheduler(made, 2)
    scheduler.add(asked(TEXT))
    made.states.available = lambda: 0
    with pytest.raises(ValueError, match="MiB are free"):
        scheduler.step()
    check_accounts(made, scheduler)
    made.states.available = lambda: None
    assert not scheduler.unfinished
    assert answer(made, asked(TEXT))[0] == answer(engine("bf16", states=0), asked(TEXT))[0]


@pytest.mark.parametrize("at", [1, 2, 5, 12])
def test_ctrl_c_between_two_records_leaves_nothing(start: Start, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    answer(start(), asked(TEXT, Mark(590, "turn")))
    made, looks = start(), iter(range(1, 99))
    scheduler = Scheduler(made, 2)
    numbers = scheduler.add(asked(TEXT, n=2))

    def clock() -> float:
        if next(looks) == at:
            raise KeyboardInterrupt
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter", clock)
        with pytest.raises(KeyboardInterrupt) as kept:
            scheduler.step()
    assert kept.value.__traceback__ is not None  # which keeps the frames alive
    check_accounts(made, scheduler)
    for number in numbers:
        scheduler.cancel(number)
    assert made.states.tokens_held == 0


def test_closed_meanwhile(restoring: Restoring) -> None:
    restoring.scheduler.add(asked(TEXT, n=2))
    restoring.step()
    restoring.scheduler.close()
    check_accounts(restoring.engine)
    assert restoring.engine.states.tokens_held == 0


def test_who_cannot_be_opened_is_left(restoring: Restoring, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(restoring.engine.cache.disk, "restore", lambda *_: 1 / 0)
        restoring.scheduler.add(asked(TEXT))
        with pytest.raises(ZeroDivisionError):
            restoring.step()
    assert restoring.scheduler.unharmed == {0}
    restoring.step()
    restoring.end()
    assert {token.answer for token in restoring.told} == {0}


def test_what_it_takes_is_not_there_for_reading(start: Start, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    answer(start(), asked(TEXT[:200], Mark(190, "turn")))
    made, parts = start(), list[int]()
    scheduler, forward = Scheduler(made, 3, 5.0), made.forward
    clock.takes(1, made.cache.disk.journal, "read")  # two pages, and the snapshot with what is behind them
    monkeypatch.setattr(made, "forward", lambda some, rows: (parts.append(len(some[-1].ids)), forward(some, rows))[1])
    scheduler.add(asked([1, 2, 3], max_tokens=60))
    scheduler.step()
    made.pace.token_s = 0.02
    scheduler.add(asked(TEXT))
    while scheduler.unfinished and len(parts) < 3:
        scheduler.step()
    scheduler.close()
    assert parts[:2] == [3, 100], "three of five seconds it came from disk"


def test_a_prompt_that_is_read_has_half_of_the_slice(
    start: Start, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    answer(start(), asked(TEXT, Mark(590, "turn")))
    made, parts = start(), list[int]()
    scheduler, forward = Scheduler(made, 4, 4.0), made.forward

    def passing(some: Any, rows: Any) -> Any:
        parts.append(len(some[-1].ids))
        found = forward(some, rows)
        made.pace.token_s = 0.0  # a pass that takes no time says nothing
        return found

    clock.takes(1, made.cache.disk.journal, "read")
    monkeypatch.setattr(made, "forward", passing)
    scheduler.add(asked([1, 2, 3], max_tokens=60))
    scheduler.step()
    scheduler.add(asked(TEXT[::-1]))
    scheduler.add(asked(TEXT, priority=2))
    for _ in range(2):
        made.pace.token_s = 0.02
        scheduler.step()
    assert parts == [3, 100, 100]
    assert held(scheduler)
    scheduler.close()


def test_who_begins_otherwise_does_not_wait_for_it(restoring: Restoring) -> None:
    (late,) = restoring.scheduler.add(asked(TEXT))
    restoring.step()
    (quick,) = restoring.scheduler.add(asked([7, 8, 9], priority=1, max_tokens=2))
    assert quick in restoring.step()
    restoring.end()
    assert restoring.of(late) == answer(engine("bf16", states=0), asked(TEXT))[0]


def test_drafts_go_on_meanwhile(start: Start) -> None:
    answer(start(), asked(TEXT, Mark(590, "turn")))
    made = start()
    made.speculate = "lookup"
    scheduler = Scheduler(made, 3, 0.0)
    repeating = SamplingParams(temperature=1.0, seed=3, logit_bias={7: 9.0, 50: 8.0})
    scheduler.add(asked([1, 2, 3] * 20, max_tokens=60, sampling=repeating))
    for _ in range(16):
        scheduler.step()
    before = made.tried
    scheduler.add(asked(TEXT))
    for _ in range(4):
        scheduler.step()
    assert held(scheduler)
    assert made.tried > before > 0
    scheduler.close()


@pytest.mark.parametrize("idle", [False, True])
def test_a_step_gives_the_disk_one_slice(start: Start, clock: Clock, idle: bool) -> None:
    """However many prompts come from it."""
    for n in range(3):
        answer(start(), asked(np.r_[n, TEXT[:400]], Mark(390, "turn")))
    made = start()
    scheduler = Scheduler(made, 4, 2.5)
    clock.takes(1, made.cache.disk.journal, "read")
    for n in range(3):
        (scheduler.add_idle if idle else scheduler.add)(asked(np.r_[n, TEXT[:400]], max_tokens=1))
    took = []
    while scheduler.unfinished or scheduler._idle.has_work:
        before = clock.now
        (scheduler.idle_step if idle else scheduler.step)()
        took.append(clock.now - before)
        check_accounts(made, scheduler)
    assert max(took) == 3
    assert sum(took) == 3 * (390 // PAGE + 1)
    assert made.cache.disk.hits == 3
    scheduler.close()


def test_what_was_cancelled_is_gone(restoring: Restoring) -> None:
    """At once, and not when the collector comes: it holds pictures."""
    (number,) = restoring.scheduler.add(asked(TEXT))
    restoring.step()
    (gone,) = map(weakref.ref, restoring.scheduler._waiting)
    gc.collect()
    gc.disable()
    try:
        restoring.scheduler.cancel(number)
        assert gone() is None
    finally:
        gc.enable()


def test_a_pass_that_fails_spares_what_comes_from_disk(restoring: Restoring, monkeypatch: pytest.MonkeyPatch) -> None:
    (number,) = restoring.scheduler.add(asked(TEXT))
    restoring.step()

    def broken(*_: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(restoring.scheduler.engine, "forward", broken)
        with pytest.raises(RuntimeError):
            restoring.step()
    assert restoring.scheduler.unharmed == {number}
    restoring.scheduler.cancel(0)
    restoring.end()
    assert restoring.of(number) == answer(engine("bf16", states=0), asked(TEXT))[0]


@pytest.mark.parametrize("records", [0, 5, 9])
def test_a_disk_that_fails_costs_time_and_nobody_else(
    restoring: Restoring, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, records: int
) -> None:
    (number,) = restoring.scheduler.add(asked(TEXT))
    for _ in range(1 + records):
        restoring.step()
    assert restoring.coming

    def broken(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(restoring.engine.cache.disk.journal, "read", broken)
    restoring.end()
    assert "could not be read from disk" in caplog.text
    assert restoring.of(number) == answer(engine("bf16", states=0), asked(TEXT))[0]
    assert restoring.of(0) == answer(engine("bf16", states=0), asked([1, 2, 3], max_tokens=60))[0]


def test_what_idly_comes_from_disk_makes_way(restoring: Restoring) -> None:
    scheduler = restoring.scheduler
    restoring.end()
    scheduler.add_idle(asked(TEXT, max_tokens=1))
    for _ in range(3):
        scheduler.idle_step()
        check_accounts(restoring.engine, scheduler)
    assert scheduler._idle._prompts[0].coming is not None
    (number,) = scheduler.add(asked([7, 8, 9]))
    while scheduler.unfinished:
        restoring.step()
    assert restoring.of(number) == answer(engine("bf16", states=0), asked([7, 8, 9]))[0]
    assert not scheduler.has_idle_work, "to read it again and again would lead to nothing"
    scheduler.add_idle(asked(TEXT, max_tokens=1))
    while scheduler.has_idle_work:
        scheduler.idle_step()
        check_accounts(restoring.engine, scheduler)
    assert restoring.engine.cache.disk.hits == 1
    (number,) = scheduler.add(asked(TEXT))
    restoring.end()
    (reuse,) = [token.reuse for token in restoring.told if token.answer == number and token.reuse]
    assert (reuse.cached, reuse.disk) == (590, 0)


def test_another_salt_another_picture_and_no_cache_find_nothing(start: Start) -> None:
    answer(start(), asked(TEXT[:250], Mark(240, "turn"), salt="a"))
    assert answer(start(), asked(TEXT[:250], salt="b"))[1].disk == 0
    assert answer(start(), asked(TEXT[:250], salt="a"))[1].disk == 240
    assert answer(start(), asked(TEXT[:250], salt="a", cache=False))[1].disk == 0


def test_a_request_without_cache_leaves_nothing(start: Start, tmp_path: Path) -> None:
    answer(start(), asked(TEXT[:250], Mark(240, "turn"), cache=False))
    assert survey(tmp_path / "prefix") == []


def test_disk_bytes_are_keys_and_values_and_a_snapshot_a_turn(start: Start, tmp_path: Path) -> None:
    made, turns = start(), range(70, 600, 75)
    for length in turns:
        answer(made, asked(TEXT[:length], Mark(length - 2, "turn")))
    made.cache.disk.journal.flush()
    taken = sum(file.nbytes for file in survey(tmp_path / "prefix"))
    page = PAGE * kv_bytes(CONFIG, "bf16")
    padded = sum(array[0].nbytes for array in made.states.page_arrays())
    plain = (turns[-1] // PAGE) * padded + len(turns) * (STATE + padded)
    assert plain <= taken <= 1.05 * plain + 400 * len(turns)
    assert padded >= page


def test_an_answer_to_a_raw_prompt_is_kept_at_its_end(start: Start) -> None:
    said, _ = answer(start(), asked(TEXT[:100], max_tokens=30))
    ids = np.r_[TEXT[:100], [token for token, *_ in said]]
    wanted, _ = answer(engine("bf16", states=0), asked(ids))
    found, reuse = answer(start(), asked(ids))
    assert (found, reuse.disk) == (wanted, 129)


def test_a_journal_that_stands_still_is_waited_for_by_nobody(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = start()
    journal = made.cache.disk.journal
    monkeypatch.setattr(journal, "takes", lambda nbytes: False)
    monkeypatch.setattr("ingot.engine.scheduler.FINISH_S", 0.05)
    answer(made, asked(TEXT[:250], Mark(240, "turn")))
    assert made.cache.disk.behind
    monkeypatch.undo()
    assert Scheduler(made, 1).has_idle_work
    Scheduler(made, 1).idle_step()
    assert not made.cache.disk.behind
    assert answer(start(), asked(TEXT[:250]))[1].disk == 240


def test_what_was_forgotten_before_it_was_written_is_left(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = start()
    monkeypatch.setattr(made.cache.disk.journal, "takes", lambda nbytes: False)
    monkeypatch.setattr("ingot.engine.scheduler.FINISH_S", 0.05)
    answer(made, asked(TEXT[:250], Mark(240, "turn")))
    made.cache.clear()
    monkeypatch.undo()
    made.cache.disk.write()
    assert (made.cache.disk.lost, made.cache.disk.behind) == (1, False)
    assert answer(start(), asked(TEXT[:250]))[1].disk == 0


@pytest.mark.parametrize("slice_s", [None, 0.0])
def test_a_mismatch_of_the_canary_forgets_the_disk_too(start: Start, tmp_path: Path, slice_s: float | None) -> None:
    answer(start(), asked(TEXT[:250], Mark(240, "turn")))
    made = start()
    read = made.cache.disk.journal.read

    def wrong(record: Any, rows: list[np.ndarray]) -> bool:
        right = read(record, rows)
        rows[-1][..., 0] += 1  # past the checksum: a defect of memory
        return right

    made.cache.disk.journal.read = wrong
    scheduler = Scheduler(made, 1, slice_s, canary=1.0)
    scheduler.add(asked(TEXT[:250]))
    while scheduler.unfinished:
        scheduler.step()
    while scheduler.has_idle_work:
        scheduler.idle_step()
    assert made.cache.mismatches == 1
    assert made.cache.disk.journal.flush(100)
    assert survey(tmp_path / "prefix") == []
    assert answer(start(), asked(TEXT[:250]))[1].disk == 0


def test_a_short_prompt_is_not_worth_a_state(tmp_path: Path, start: Start) -> None:
    made = start()
    answer(made, asked(TEXT[:30], Mark(29, "turn")))
    made.cache.disk.journal.flush()
    assert survey(tmp_path / "prefix") == []


PROCESS = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from tests.engine import test_disk as t
from ingot.store.journal import Journal
made = t.engine(sys.argv[2])
journal = Journal(Path(sys.argv[1]), sys.argv[2], t.IDENTITY)
journal.flush(100)
made.cache.disk = t.Disk(made.cache, journal, least=32)
said, reuse = t.answer(made, t.asked(t.TEXT[:330], t.Mark(325, "turn")))
journal.close()
print(repr((said, reuse.disk)))
"""


def test_across_real_processes(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    text = PROCESS.format(paths=[str(root), str(Path(ingot.__file__).resolve().parents[1])])
    told = [
        subprocess.run(
            [sys.executable, "-c", text, str(tmp_path), "q8"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        ).stdout
        for _ in range(2)
    ]
    (cold, nothing), (warm, read) = eval(told[0]), eval(told[1])
    assert (nothing, read) == (0, 325)
    assert cold == warm
