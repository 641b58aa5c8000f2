"""What memory cannot hold is refused before it runs; what it holds is taken as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ingot import memory
from ingot.engine import Engine, Request
from ingot.engine.sequence import MARGIN, Sequence, StatePool
from ingot.model import build
from ingot.ops import PAGE, reference
from ingot.spec.cost import kv_bytes, state_bytes
from tests.model.small import small_config, weights

CONFIG = small_config()
PAGE_BYTES = PAGE * kv_bytes(CONFIG, "f32")
STATE = state_bytes(CONFIG)
ROOT = build(CONFIG, reference, weights(), "f32")


def engine(room: int) -> Engine:
    return Engine(ROOT, reference, CONFIG, available=lambda: MARGIN + room)


def two_slots(states: StatePool) -> Sequence:
    """A new sequence, and room for another one's recurrent state."""
    sequence, other = states.open(), states.open()
    states.close(other)
    return sequence


def test_several_sequences_need_their_pages_and_a_state_each() -> None:
    need = 3 * 2 * PAGE_BYTES + 3 * STATE
    for room in (need, need - 1):
        states = StatePool(reference, CONFIG, available=lambda room=room: MARGIN + room)
        assert states.fits(PAGE + 1, 3) == (room == need)
    with pytest.raises(ValueError, match="3 answers of 65 tokens"):
        states.check(PAGE + 1, 3)


def test_a_request_that_cannot_fit_is_refused_before_it_runs() -> None:
    """Prompt and answer count; the sentence names tokens, bytes and the cure."""
    message = re.escape(
        "130 tokens, prompt and max_tokens, need 0 MiB for keys and values as f32; 0 MiB are free\nhint:"
    )
    with pytest.raises(ValueError, match=message + ".*kv='q8'.*max_tokens"):
        engine(3 * PAGE_BYTES + STATE - 1).generate(Request(np.arange(100), max_tokens=30))
    assert next(engine(3 * PAGE_BYTES + STATE).generate(Request(np.arange(100), max_tokens=30))) >= 0
    with pytest.raises(ValueError, match="65 tokens"):
        engine(2 * PAGE_BYTES + STATE - 1).logits(np.arange(65))


def test_written_pages_are_taken_again_and_promised_ones_count() -> None:
    left = 4 * PAGE_BYTES
    states = StatePool(reference, CONFIG, available=lambda: MARGIN + left)
    states._grow(2, 5)
    states.close(two_slots(states))
    first = states.open()
    states.reserve(first, 3 * PAGE)  # promised, and nothing taken
    states.check(PAGE)
    with pytest.raises(ValueError):
        states.check(2 * PAGE)
    states.segments(first, None, 2 * PAGE)
    left -= 2 * PAGE_BYTES  # now the system says so
    states.check(PAGE)
    with pytest.raises(ValueError):
        states.check(2 * PAGE)
    states.close(first)
    states.check(4 * PAGE)  # two of them are there already
    with pytest.raises(ValueError):
        states.check(5 * PAGE)


def test_growing_has_one_array_twice() -> None:
    left = 8 * PAGE_BYTES
    states = StatePool(reference, CONFIG, available=lambda: MARGIN + left)
    states.segments(two_slots(states), None, 4 * PAGE)
    left -= 4 * PAGE_BYTES
    states.check(2 * PAGE)
    with pytest.raises(ValueError):
        states.check(3 * PAGE)  # the pool has one layer: half of what is written is there twice


def test_pools_that_grow_keep_what_was_written() -> None:
    states = StatePool(reference, CONFIG)
    first = states.open()
    states.segments(first, None, PAGE)
    layer = next(i for i in range(len(states.pools.layers)) if i not in states.pools.linear)
    states.pools.layers[layer][0][first.pages[0]] = 7
    second = states.open()
    states.reserve(second, 9 * PAGE)
    assert len(states.pools.layers[layer][0]) == states.pools.pages >= 10
    assert (states.pools.layers[layer][0][first.pages[0]] == 7).all()
    assert not set(first.pages) & set(second.pages)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8,000 KiB free whose process is in group /a/b of both versions."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    (tmp_path / "cgroup").write_text("5:cpu,memory:/a/b\n3:cpuset:/a/b\n0::/a/b\n")
    monkeypatch.setattr(memory, "MEMINFO", str(tmp_path / "meminfo"))
    monkeypatch.setattr(memory, "MEMBERSHIP", str(tmp_path / "cgroup"))
    roots = {v: (str(tmp_path / f"v{v}"), *memory.GROUPS[v][1:]) for v in (1, 2)}
    monkeypatch.setattr(memory, "GROUPS", roots)
    for version in (1, 2):
        (tmp_path / f"v{version}/a/b").mkdir(parents=True)
    return tmp_path


def test_the_least_of_machine_and_groups_is_available(system: Path) -> None:
    assert memory.available() == 8000 * 1024
    (system / "v2/a/memory.max").write_text("5000\n")  # a parent's limit counts
    (system / "v2/a/memory.current").write_text("4000\n")
    assert memory.available() == 1000
    (system / "v2/a/memory.stat").write_text("anon 3000\ninactive_file 600\n")
    assert memory.available() == 1600
    (system / "v2/a/b/memory.max").write_text("max\n")
    (system / "v1/memory.limit_in_bytes").write_text("1100\n")
    (system / "v1/memory.usage_in_bytes").write_text("1000\n")
    assert memory.available() == 100


def test_nobody_knows_what_is_available(system: Path) -> None:
    for name in ("meminfo", "cgroup"):
        (system / name).unlink()
    assert memory.available() is None
    StatePool(reference, CONFIG, available=memory.available).check(10**9)
