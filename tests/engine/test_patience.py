"""What waits before it is written to disk, what stands for what, and that nothing is lost by it that a conversation
needs. A state has the bytes of 150 tokens here; a turn of an agent is longer, a call of a tool shorter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.engine import Engine, Mark, Request, SamplingParams
from ingot.engine import disk as second_tier
from ingot.engine.disk import SNAPSHOT_RECORD, Disk
from ingot.engine.keys import chained, keys_of, origin
from ingot.engine.patience import PATIENCE_S
from ingot.engine.scheduler import Scheduler
from ingot.ops import PAGE
from ingot.store.journal import Journal
from tests.engine import test_disk
from tests.engine.accounts import check_accounts

VOCABULARY = test_disk.CONFIG.text.vocab_size
GREEDY = SamplingParams(temperature=0)


def words(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count)


SYSTEM = words(0, 96)
WAIT_TURNS = 6  # of five seconds, that one waits


@dataclass
class Process:
    """An engine, its scheduler and its disk, at a time that the test sets."""

    place: Path
    now: list[float]
    states: int = 60
    marks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine: Engine = test_disk.engine("bf16", states=self.states)
        self.engine.cache.clock = lambda: self.now[0]
        self.journal = Journal(self.place, "one", bytes(32), size=1 << 30)
        assert self.journal.flush(100)
        self.disk = self.engine.cache.disk = Disk(self.engine.cache, self.journal, least=32)
        self.scheduler = Scheduler(self.engine, 3)

    def add(self, ids: np.ndarray, tokens: int = 3, system: int = len(SYSTEM), **how: Any) -> int:
        """A request of a chat: its number."""
        marks = (Mark(system, "system"), Mark(len(ids) - 2, "turn"))
        return self.scheduler.add(Request(ids, marks=marks, max_tokens=tokens, sampling=GREEDY, **how))[0]

    def ask(self, ids: np.ndarray, tokens: int = 3, **how: Any) -> Any:
        """What was reused for it."""
        number = self.add(ids, tokens, **how)
        reuse = None
        while self.scheduler.unfinished:
            for token in self.scheduler.step():
                reuse = token.reuse if token.answer == number and token.reuse else reuse
        check_accounts(self.engine, self.scheduler)
        return reuse

    def ahead(self, ids: np.ndarray) -> None:
        self.scheduler.add_idle(Request(ids, marks=(Mark(len(ids), "turn"),), max_tokens=1))

    def rest(self, seconds: float) -> None:
        """Idle time."""
        while self.scheduler.has_idle_work:
            self.scheduler.idle_step()
        self.now[0] += seconds
        while self.scheduler.has_idle_work:
            self.scheduler.idle_step()
        assert self.journal.flush(100)
        check_accounts(self.engine, self.scheduler)

    def kept(self) -> list[int]:
        """Tokens before the states on disk, in order."""
        assert self.journal.flush(100)
        found = [record for record in self.journal._index if record.kind == SNAPSHOT_RECORD]
        return sorted(second_tier._META.unpack_from(record.meta)[0] for record in found)

    def has(self, ids: np.ndarray) -> bool:
        """Whether the state after these tokens is on disk."""
        keys, digest = keys_of(ids, None), origin("")
        for at in range(0, len(ids) - PAGE + 1, PAGE):
            digest = chained(digest, keys[at : at + PAGE])
        return self.journal.find(chained(digest, keys[len(ids) // PAGE * PAGE :])) is not None

    def bytes(self) -> int:
        assert self.journal.flush(100)
        return self.journal.held[1]

    def least(self, tokens: int, states: int) -> float:
        """Bytes of the keys and values of so many tokens, and of states with the pages that they end in."""
        pools = self.engine.states
        return tokens / PAGE * pools.page_bytes + states * (pools.state_bytes + pools.page_bytes)

    def kill(self) -> None:
        self.journal.close()

    def stop(self) -> None:
        self.scheduler.close()
        self.kill()


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Process] = []
    now = [1000.0]

    def started(**options: Any) -> Process:
        made.append(Process(tmp_path / "prefix", now, **options))
        return made[-1]

    yield started
    for process in made:
        process.kill()


def talk(process: Process, turns: int, pause: float, calls: int = 1, result: int = 200) -> np.ndarray:
    """An agent that thinks, calls tools and answers, behind a template that drops the reasoning of earlier turns: the
    conversation up to the next question, as the template has it then."""
    said = SYSTEM
    for turn in range(turns):
        seed = 100 * turn
        asked = stripped = np.r_[said, words(seed + 1, 30)]
        for call in range(calls):
            process.ask(asked)
            process.now[0] += 2.0
            visible = np.r_[words(seed + 10 + call, 12), words(seed + 50 + call, result)]
            asked = np.r_[asked, words(seed + 30 + call, 25), visible]
            stripped = np.r_[stripped, visible]
        process.ask(asked)
        said = np.r_[stripped, words(seed + 90, 15)]
        process.ahead(said)
        process.rest(pause)
    return said


@pytest.mark.parametrize("pause", [6.0, 45.0])
def test_an_agents_conversation_leaves_a_state_a_question(start: Start, pause: float) -> None:
    process = start()
    said = talk(process, 8, pause)
    process.stop()
    assert process.bytes() <= 1.1 * process.least(len(said), 8)
    following = np.r_[said, words(7000, 40)]
    cold = test_disk.engine("bf16", states=0)
    again = start()
    assert again.ask(following).disk == len(said)
    found = test_disk.answer(again.engine, test_disk.asked(following))[0]
    assert found == test_disk.answer(cold, test_disk.asked(following))[0]


@pytest.mark.parametrize("pause", [1.0, 45.0])
def test_many_calls_of_tools_do_not_leave_a_state_each(start: Start, pause: float) -> None:
    """Fifty calls of 52 tokens in 100 seconds: what was abandoned is written in part, and with few states."""
    process = start()
    said = talk(process, 1, pause, calls=50, result=15)
    process.stop()
    assert process.has(said)
    assert len(process.kept()) <= (len(said) + 50 * 52) / process.disk._patience.worth


@pytest.mark.parametrize("states", [60, 200])
def test_a_long_conversation_of_quick_turns_is_twice_its_keys_at_most(start: Start, states: int) -> None:
    """With a state for as many tokens as it has bytes for: whether memory still has those before or not."""
    process, said = start(states=states), SYSTEM
    for turn in range(60):
        said = np.r_[said, words(turn + 1, 20)]
        process.ask(said)
        process.rest(5.0)
    worth, kept = process.disk._patience.worth, process.kept()
    assert bool(process.engine.cache.evictions) == (states == 60)
    assert len(kept) <= len(said) / worth + 2
    assert max(np.diff([*kept, len(said)])) <= worth + 20 * (WAIT_TURNS + 2), "so much is lost by a crash"
    process.stop()
    assert process.has(said[:-2]) or states == 60


@pytest.mark.parametrize("short", [True, False])
def test_a_chat_whose_answers_take_long_leaves_a_state_a_turn(start: Start, short: bool) -> None:
    process, said = start(), SYSTEM
    for turn in range(5):
        said = np.r_[said, words(turn + 1, 40 if short else 200)]
        number = process.add(said, tokens=6)
        answer = []
        while process.scheduler.unfinished:
            answer += [token.id for token in process.scheduler.step() if token.answer == number]
            process.now[0] += 20.0
        said = np.r_[said, answer, words(turn + 50, 3)]
        process.ahead(said)
        process.rest(100.0)
    process.stop()
    assert len(process.kept()) == 6
    assert process.has(said) == short, "an answer is read again, if its turn's state is there"


def test_it_waits_and_then_it_is_written(start: Start) -> None:
    process = start()
    assert process.scheduler.rests_s is None
    process.ask(np.r_[SYSTEM, words(1, 200)])
    process.rest(PATIENCE_S - 1)
    assert process.kept() == [96]
    assert not process.scheduler.has_idle_work
    assert 0 < process.scheduler.rests_s <= 1
    process.rest(1)
    assert process.kept() == [96, 294]
    assert process.scheduler.rests_s is None


def test_who_is_killed_loses_what_is_young_and_who_is_stopped_nothing(start: Start) -> None:
    ids = np.r_[SYSTEM, words(1, 200)]
    first = start()
    first.ask(ids)
    first.rest(5)
    first.kill()
    second = start()
    assert second.ask(np.r_[ids, words(2, 9)]).disk == 96
    second.stop()
    assert start().ask(np.r_[ids, words(2, 9), words(3, 9)]).disk == len(ids) + 7


def test_a_question_that_is_asked_otherwise_takes_the_place_of_the_first(start: Start) -> None:
    process = start()
    said = np.r_[SYSTEM, words(1, 200)]
    process.ask(said)
    asked = [np.r_[said, words(10 + n, 200)] for n in range(3)]
    for ids in asked:
        process.ask(ids)
        process.rest(4)
    process.stop()
    assert [process.has(ids[:-2]) for ids in asked] == [False, False, True]
    assert process.has(said[:-2])


def test_users_that_share_a_system_prompt_do_not_drop_each_other(start: Start) -> None:
    process = start()
    asked = [np.r_[SYSTEM, words(10 + n, 200 if n % 2 else 60)] for n in range(4)]
    for ids in asked:
        process.ask(ids)
        process.rest(1)
    process.stop()
    assert all(process.has(ids[:-2]) for ids in asked)


def test_branches_that_run_do_not_drop_each_other(start: Start) -> None:
    process = start()
    said = np.r_[SYSTEM, words(1, 200)]
    process.ask(said)
    asked = [np.r_[said, words(10 + n, 200)] for n in range(3)]
    for ids in asked:
        process.add(ids, tokens=30)
        for _ in range(4):
            process.scheduler.step()
    while process.scheduler.unfinished:
        process.scheduler.step()
    process.stop()
    assert all(process.has(ids[:-2]) for ids in asked)


@pytest.mark.parametrize("states", [1, 2, 3])
def test_what_memory_is_short_of_waits_no_more(start: Start, states: int) -> None:
    process = start(states=states)
    asked = [np.r_[words(10 + n, 96), words(20 + n, 200)] for n in range(5)]
    for ids in asked:
        process.ask(ids)
        process.rest(1)
    assert process.engine.cache.evictions
    process.kill()
    again = start(states=states)
    found = [again.ask(np.r_[ids, words(1, 9)]).disk for ids in asked[:-1]]
    assert found[: 5 - states] == [294] * len(found[: 5 - states])
    assert process.disk.lost == 0


def test_an_eviction_beside_those_that_wait_leaves_them_their_patience(start: Start) -> None:
    """A cache that has been full for long forgets old conversations; that says nothing about young ones."""
    process = start(states=12)
    for n in range(6):
        process.ask(np.r_[words(10 + n, 96), words(20 + n, 200)])
        process.rest(7200)
    before = process.engine.cache.evictions
    said = talk(process, 1, 6.0)
    assert process.engine.cache.evictions > before
    assert not process.has(said)
    process.stop()
    assert process.has(said)


def test_what_was_forgotten_at_once_takes_nobodys_place(start: Start) -> None:
    process = start()
    said = np.r_[SYSTEM, words(1, 100)]
    process.ask(said)
    following = np.r_[said, words(2, 200)]
    note = process.disk.note

    def too_late(snapshot: Any, *about: Any) -> None:
        if snapshot.position > len(said):
            process.engine.cache.drop(snapshot)
        note(snapshot, *about)

    process.disk.note = too_late  # type: ignore[method-assign]
    process.ask(following)
    process.stop()
    assert process.has(said[:-2])


def begun_to_read_ahead(process: Process) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A turn, the next with reasoning, and it without, of which a part has been read."""
    said = np.r_[SYSTEM, words(1, 200)]
    process.ask(said)
    abandoned = np.r_[said, words(2, 25), words(3, 700)]
    process.ask(abandoned)
    stripped = np.r_[said, words(3, 700)]
    process.ahead(stripped)
    process.scheduler.idle_step()
    return said, abandoned, stripped


def test_an_idle_reading_in_two_parts_stands_for_the_turn_that_it_replaces(start: Start) -> None:
    process = start()
    _, abandoned, stripped = begun_to_read_ahead(process)
    process.ask(np.r_[SYSTEM, words(9, 64)])  # somebody else
    process.rest(1)
    process.stop()
    assert process.has(stripped)
    assert not process.has(abandoned[:-2])


def test_who_is_stopped_in_the_midst_of_reading_ahead_keeps_what_was_read(start: Start) -> None:
    process = start()
    said, abandoned, stripped = begun_to_read_ahead(process)
    process.stop()
    assert not process.has(abandoned[:-2])
    assert start().ask(np.r_[stripped, words(4, 9)]).disk > len(said) + 100


def test_a_disk_that_takes_nothing_is_not_waited_for(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start()
    monkeypatch.setattr(process.journal, "takes", lambda nbytes: False)
    monkeypatch.setattr("ingot.engine.scheduler.FINISH_S", 0.05)
    process.ask(np.r_[SYSTEM, words(1, 200)])
    process.now[0] += 40
    assert process.scheduler.has_idle_work
    process.scheduler.idle_step()
    assert process.scheduler.rests_s == 0
    process.scheduler.close()
    monkeypatch.undo()
    process.rest(0)
    assert process.kept() == [96, 294]
