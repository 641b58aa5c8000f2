"""Every slot and page is somebody's: the books of a StatePool, a PrefixCache and those who run, held against each
other."""

from __future__ import annotations

from collections import Counter
from inspect import getgeneratorlocals
from typing import Any

from ingot.engine import Engine, Scheduler
from ingot.engine.run import Run
from ingot.engine.sequence import pages_of
from ingot.ops import PAGE


def check_accounts(engine: Engine, *schedulers: Scheduler) -> None:
    """AssertionError where two claim a row that cannot be shared, or nobody has a row that is taken."""
    states, cache = engine.states, engine.cache
    for waiting in [waiting for scheduler in schedulers for waiting in scheduler._waiting]:
        if waiting.seen == cache.changes:
            assert waiting.match == cache.match(waiting.keys, waiting.request.salt)
        reader = waiting.reader
        assert reader is None or (reader.answer if isinstance(reader, Run) else reader.first) < waiting.first
    runs = [run for scheduler in schedulers for run in scheduler._runs]
    for run in runs:
        places = [mark.position for mark in run.marks]
        assert places == sorted(set(places))
        assert not places or run.sequence.length < places[0] <= places[-1] <= run.sequence.length + len(run.pending)
    runs += [run for scheduler in schedulers if (run := scheduler._idle.run)]
    sequences = [run.sequence for run in runs]
    for scheduler in schedulers:
        for waiting in scheduler._waiting + list(scheduler._idle._prompts):
            if waiting.coming is not None:  # from disk
                sequences.append(getgeneratorlocals(waiting.coming)["sequence"])
                has = len(sequences[-1].pages) + sequences[-1].promised
                assert has >= pages_of(scheduler._opening._room(waiting))  # or for answers that were cancelled
    nodes, snapshots = list(cache.nodes()), cache.snapshots
    slots = [sequence.slot for sequence in sequences] + [snapshot.slot for snapshot in snapshots]
    assert len(set(slots)) == len(slots) == states._slots.taken
    assert not set(slots) & set(states._slots._free)
    assert states.snapshots == len(snapshots)
    windows = [sequence.window for sequence in sequences if sequence.window >= 0]
    assert len(set(windows)) == len(windows) == states._windows.taken
    assert not set(windows) & set(states._windows._free)

    users = Counter(page for sequence in sequences for page in sequence.pages.tolist())
    kept = Counter([node.page for node in nodes] + [snapshot.page for snapshot in snapshots if len(snapshot.tail)])
    assert len({node.page for node in nodes}) == len(nodes)
    assert users == {page: count for page, count in enumerate(states._users.tolist()) if count}
    assert kept == {page: count for page, count in enumerate(states._kept.tolist()) if count}
    assert len(set(kept) | set(users)) == states._pages.taken
    assert not (set(kept) | set(users)) & set(states._pages._free)
    assert states.idle == len(set(kept) - set(users))
    assert states._promised == sum(sequence.promised for sequence in sequences)
    for run in runs:  # who has begun has, or is promised, all that it may need
        pages = pages_of(run.sequence.length + run.left + 1 if run.decodes else len(run.request.ids) + run.left)
        pages += len(run.twins) * (pages - len(run.request.ids) // PAGE)
        has = len(run.sequence.pages) + run.sequence.promised
        assert has == pages or (has > pages and not run.decodes and run.answer >= 0)  # twins that were cancelled
    assert cache.bytes <= cache.budget
    check_tree(cache, nodes, users)


def held(scheduler: Scheduler) -> set[int]:
    """The answers that are."""
    return {answer for waiting in scheduler.held for answer in waiting.answers}


def check_tree(cache: Any, nodes: list[Any], users: Counter[int]) -> None:
    """Pages lie where their tokens are, and lead somewhere or are in use."""
    for node in nodes:
        assert node.parent.children[node.digest] is node
        assert node.depth == node.parent.depth + PAGE
        assert len(node.keys) == PAGE
        assert node.children or node.tails or users[node.page]
        assert node.parent._known == _bytes(node.parent)
    for snapshot in cache.snapshots:
        assert snapshot.kept
        assert snapshot.node._known == _bytes(snapshot.node)
        assert len(snapshot.tail) < PAGE
        assert snapshot.node.parent is None or snapshot.node in nodes
    assert sum(len(node.tails) for node in nodes) <= len(cache.snapshots)


def _bytes(node: Any) -> list[bytes]:
    return sorted([*(child.data for child in node.children.values()), *node.tails])


def poison(engine: Engine) -> None:
    """Whatever is given back is overwritten at once, so that who still reads it is found out."""
    states = engine.states
    give_slot, give_page, give_window = states._slots.give, states._pages.give, states._windows.give

    def poisoned(give: Any, arrays: Any) -> Any:
        def given(row: int) -> None:
            for array in arrays():
                array[row] = 0xFF if array.dtype.kind == "u" else float("nan")
            give(row)

        return given

    states._slots.give = poisoned(give_slot, states.slot_arrays)  # type: ignore[method-assign]
    states._pages.give = poisoned(give_page, states.page_arrays)  # type: ignore[method-assign]
    windows = poisoned(give_window, lambda: states.pools.drafts.values())
    states._windows.give = windows  # type: ignore[method-assign]
