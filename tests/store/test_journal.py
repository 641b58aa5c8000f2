"""What was appended to a journal comes back bit for bit or not at all; nothing that its files suffer is an error."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.store import record_folder as module
from ingot.store import records
from ingot.store.journal import Journal
from ingot.store.record_folder import LEAST_FILE_BYTES, SUFFIX, survey

IDENTITY = bytes(range(32))
HEAD = 128  # bytes of a file before its first record: its header, and what it is about
Open = Callable[..., Journal]


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def payload(number: int, nbytes: int = 300) -> list[np.ndarray]:
    """Two buffers of unequal size, that depend on the number."""
    data = np.random.default_rng(number).integers(0, 256, nbytes, np.uint8)
    return [data[: nbytes // 3].view(np.uint16) if nbytes % 6 == 0 else data[: nbytes // 3], data[nbytes // 3 :]]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    made: list[Journal] = []

    def start(name: str = "one", identity: bytes = IDENTITY, **options: object) -> Journal:
        made.append(Journal(tmp_path / "prefix", name, identity, **options))  # type: ignore[arg-type]
        assert made[-1].flush(100)
        return made[-1]

    yield start
    for each in made:
        each.close()


def fill(journal: Journal, numbers: range, nbytes: int = 300) -> None:
    for number in numbers:
        assert journal.append(1 + number % 2, key(number), payload(number, nbytes), meta=b"m" * number)
    assert journal.flush(100)


def held(journal: Journal, numbers: range, nbytes: int = 300) -> set[int]:
    """The numbers that are there; each is read and must be what was appended."""
    found = set()
    for number in numbers:
        record = journal.find(key(number))
        if record is None:
            continue
        buffers = [np.zeros_like(part) for part in payload(number, nbytes)]
        if journal.read(record, buffers):
            assert record.kind == 1 + number % 2
            assert record.meta == b"m" * number
            assert all(np.array_equal(a, b) for a, b in zip(buffers, payload(number, nbytes), strict=True))
            found.add(number)
    return found


def files(journal: Journal) -> list[Path]:
    return sorted(journal.folder.glob(f"*{SUFFIX}"))


def test_records_come_back_in_the_same_process_and_after_a_restart(opened: Open) -> None:
    first = opened()
    fill(first, range(5))
    assert held(first, range(6)) == set(range(5))
    first.close()
    second = opened()
    assert held(second, range(6)) == set(range(5))
    fill(second, range(5, 7))
    second.close()
    assert held(opened(), range(8)) == set(range(7))
    assert len(files(second)) == 1, "a file that is not full is gone on with"


def test_bytes_are_linear_in_what_is_new(opened: Open) -> None:
    journal = opened()
    sizes = [HEAD]
    for last in (10, 20, 30):
        for number in range(last):  # a conversation that grows: the old records are named again
            journal.append(1, key(number), payload(number, 6000), meta=b"m" * 9)
        journal.flush()
        sizes.append(files(journal)[0].stat().st_size)
    assert np.diff(sizes).tolist() == [10 * 6080] * 3
    journal.close()
    again = opened()
    for number in range(30):
        again.append(1, key(number), payload(number, 6000), meta=b"m" * 9)
    again.flush()
    assert files(again)[0].stat().st_size == sizes[-1]


def test_a_group_lists_its_records(opened: Open) -> None:
    for journal in (opened(), opened()):
        for number in (3, 1, 2):
            journal.append(2, key(number), payload(number), group=b"g" * 16 if number < 3 else b"h" * 16)
        journal.flush()
        assert [record.key for record in journal.group(b"g" * 16)] == [key(1), key(2)]
        assert journal.group(b"x" * 16) == []
        journal.close()


def test_a_file_cut_anywhere_keeps_its_whole_records_and_is_gone_on_with(opened: Open) -> None:
    journal = opened()
    fill(journal, range(3), 150)
    journal.close()
    path = files(journal)[0]
    data = path.read_bytes()
    ends = [HEAD + (150 + 64 + 63) // 64 * 64 * n for n in (1, 2, 3)]
    assert ends[-1] == len(data)
    for cut in [*range(70), *range(70, len(data), 7), *(end + d for end in ends[:2] for d in (-1, 0, 1))]:
        path.write_bytes(data[:cut])
        after = opened()
        assert held(after, range(3), 150) == {n for n in range(3) if ends[n] <= cut}, cut
        assert after.counts.damaged == 0, "to be killed is no damage"
        fill(after, range(7, 8), 150)
        after.close()
        assert 7 in held(opened(), range(8), 150), cut
        for other in files(journal)[1:]:
            other.unlink()


def test_a_flipped_bit_costs_the_record_it_is_in(opened: Open) -> None:
    journal = opened()
    fill(journal, range(4), 150)
    journal.close()
    path = files(journal)[0]
    data, one = path.read_bytes(), 256
    for at in range(0, len(data), 3):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        after = Journal(journal.directory, "one", IDENTITY)
        assert after.flush(100)
        found, hurt = held(after, range(4), 150), (at - HEAD) // one
        after.close()
        assert found >= (set(range(4)) - {hurt} if at >= 64 else set()), at
        padding = at >= HEAD and (at - HEAD) % one >= 64 + hurt + 150
        assert padding or hurt not in found, at
        assert padding or after.counts.damaged or hurt == 3, "damage is counted, but for the end of a file"
    path.write_bytes(data)


def test_records_of_many_buffers_and_none(opened: Open) -> None:
    journal = opened()
    parts = [np.full(3, n, np.uint16) for n in range(1500)]
    journal.append(1, key(1), parts)
    journal.append(1, key(2), [])
    journal.flush()
    out = [np.zeros(3, np.uint16) for _ in range(1500)]
    record = journal.find(key(1))
    assert record is not None
    assert journal.read(record, out)
    assert all(np.array_equal(a, b) for a, b in zip(out, parts, strict=True))
    empty = journal.find(key(2))
    assert empty is not None
    assert journal.read(empty, [])


def test_buffers_of_another_size_are_a_miss(opened: Open) -> None:
    journal = opened()
    fill(journal, range(1))
    record = journal.find(key(0))
    assert record is not None
    assert not journal.read(record, [np.zeros(299, np.uint8)])
    assert key(0) not in journal


def test_files_are_private_whatever_the_umask(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "prefix").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        journal = opened()
        fill(journal, range(1))
    finally:
        os.umask(before)
    assert journal.directory.stat().st_mode & 0o777 == 0o700
    assert journal.folder.stat().st_mode & 0o777 == 0o700
    assert files(journal)[0].stat().st_mode & 0o777 == 0o600


def test_other_identities_and_foreign_files_are_not_read(opened: Open) -> None:
    journal = opened()
    fill(journal, range(2))
    journal.close()
    other = opened(identity=bytes(32))
    assert held(other, range(2)) == set()
    fill(other, range(2, 3))
    other.close()
    (journal.folder / f"a{SUFFIX}").write_bytes(b"something else" * 100)
    (journal.folder / f"b{SUFFIX}").write_bytes(b"")
    (journal.folder / f"c{SUFFIX}").mkdir()
    os.mkfifo(journal.folder / f"d{SUFFIX}")
    (journal.folder / f"e{SUFFIX}").symlink_to(files(journal)[0])
    again = opened()
    assert held(again, range(3)) == {0, 1}
    assert (journal.folder / f"a{SUFFIX}").read_bytes() == b"something else" * 100


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_files_and_folders_are_not_read(opened: Open) -> None:
    journal = opened()
    fill(journal, range(2))
    journal.close()
    os.chown(files(journal)[0], 12345, -1)
    assert held(opened(), range(2)) == set()
    os.chown(files(journal)[0], 0, -1)
    assert held(opened(), range(2)) == {0, 1}
    os.chown(journal.folder, 12345, -1)
    assert held(opened(), range(2)) == set()


@pytest.mark.parametrize("place", ["prefix", "prefix/one"])
@pytest.mark.parametrize("what", ["link", "file"])
def test_no_folder_is_no_disk_and_is_said_once(opened: Open, tmp_path: Path, place: str, what: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / place).symlink_to(tmp_path / "elsewhere") if what == "link" else (tmp_path / place).write_text("x")
    told: list[str] = []
    journal = opened(tell=told.append)
    for number in range(3):
        journal.append(1, key(number), payload(number))
        journal.flush()
    assert held(journal, range(3)) == set()
    assert len(told) == 1
    assert "prefix cache on disk" in told[0]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert journal.counts.dropped == 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_is_said_once_and_tried_again_later(
    opened: Open, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    told: list[str] = []
    journal = opened(tell=told.append)
    fill(journal, range(2))
    whole, real = files(journal)[0].stat().st_size, os.writev

    def full(handle: int, parts: list[memoryview]) -> int:
        real(handle, [parts[0][:20]])  # some of it was there
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        for number in range(2, 5):
            journal.append(1, key(number), payload(number))
            journal.flush()
    assert files(journal)[0].stat().st_size == whole, "what was written of it is cut"
    assert told == [f"the prefix cache on disk cannot be written: {os.strerror(code)} ({journal.folder})"]
    assert journal.counts.dropped == 3
    assert held(journal, range(5)) == {0, 1}, "what is there can be read"
    assert not journal.append(1, key(5), payload(5)), "it rests"
    monkeypatch.setattr(journal, "_rest_until", 0.0)
    fill(journal, range(6, 8))
    journal.close()
    assert held(opened(), range(9)) == {0, 1, 6, 7}


def test_what_cannot_be_read_is_a_miss(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    journal = opened(tell=told.append)
    fill(journal, range(2))

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        assert held(journal, range(2)) == set()
    assert len(told) == 1
    assert "cannot be read: Input/output error" in told[0]
    fill(journal, range(2))  # written again
    assert held(journal, range(2)) == {0, 1}


def test_files_cut_or_removed_under_our_feet(opened: Open) -> None:
    journal = opened()
    fill(journal, range(3))
    os.truncate(files(journal)[0], 100)
    assert held(journal, range(3)) == set()
    assert journal.counts.damaged == 3
    fill(journal, range(3, 5))
    files(journal)[0].unlink()
    fill(journal, range(6, 7))
    assert 6 in held(journal, range(7))
    journal.close()
    after = opened()
    assert held(after, range(7)) == {6}
    for path in files(after):
        path.unlink()
    after.folder.rmdir()
    fill(after, range(8, 9))
    assert held(after, range(9)) >= {8}


def test_a_full_queue_drops_and_nobody_waits(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, go, real = opened(queue_bytes=1000), threading.Event(), os.writev

    def slow(handle: int, parts: list[memoryview]) -> int:
        go.wait(60)
        return real(handle, parts)

    monkeypatch.setattr(os, "writev", slow)
    began = time.perf_counter()
    taken = [journal.append(1 + number % 2, key(number), payload(number), meta=b"m" * number) for number in range(6)]
    assert time.perf_counter() - began < 30
    assert taken == [True, True, True, False, False, False]
    assert journal.takes(100)
    assert not journal.takes(101)
    assert journal.counts.dropped == 3
    assert key(2) in journal
    assert journal.find(key(2)) is None, "it is not on disk yet"
    go.set()
    assert journal.flush(100)
    assert held(journal, range(6)) == {0, 1, 2}
    assert journal.append(2, key(9), payload(9, 5000)), "one that is larger than the queue passes when it is empty"


def test_two_at_once_write_files_of_their_own_and_both_are_found(opened: Open) -> None:
    first, second = opened(), opened()
    fill(first, range(0, 4, 2))
    fill(second, range(1, 4, 2))
    assert len(files(first)) == 2
    third = opened()
    assert held(third, range(4)) == set(range(4))
    fill(third, range(4, 5))
    assert len(files(first)) == 3, "the others' files are held"


def test_the_size_is_kept_and_the_least_used_goes_first(opened: Open) -> None:
    size = 8 * LEAST_FILE_BYTES
    journal, nbytes = opened(size=size), LEAST_FILE_BYTES // 2 - 300
    for number in range(40):
        journal.append(1 + number % 2, key(number), payload(number, nbytes), meta=b"m" * number)
        assert journal.flush(100)
        assert held(journal, range(1), nbytes) == {0}, "it is used all the time"
        journal._touched.clear()
        assert sum(file.nbytes for file in survey(journal.directory)) <= size
    assert held(journal, range(40), nbytes) >= {0, 1, *range(30, 40)}
    assert journal.find(key(5)) is None
    journal.close()
    assert held(opened(), range(40), nbytes) >= {0, 1, *range(30, 40)}


def test_other_folders_count_and_go_first_unless_somebody_writes_there(opened: Open) -> None:
    size, nbytes = 8 * LEAST_FILE_BYTES, LEAST_FILE_BYTES // 2 - 300
    gone, live = opened("gone", size=size), opened("live", size=size)
    fill(gone, range(4), nbytes)
    fill(live, range(2), nbytes)
    gone.close()
    journal = opened(size=size)
    fill(journal, range(20), nbytes)
    assert not gone.folder.exists()
    assert held(live, range(2), nbytes) == {0, 1}
    assert sum(file.nbytes for file in survey(journal.directory)) <= size


def test_where_there_are_no_locks_each_start_has_its_file_and_the_size_is_kept(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refused)
    size, nbytes = 8 * LEAST_FILE_BYTES, LEAST_FILE_BYTES // 2 - 300
    for start in range(6):
        journal = opened(size=size)
        fill(journal, range(4 * start, 4 * start + 4), nbytes)
        assert len(files(journal)) >= 2
        assert sum(file.nbytes for file in survey(journal.directory)) <= size
        journal.close()
    assert held(opened(), range(24), nbytes) >= set(range(16, 24))


def test_a_record_that_can_never_fit_is_dropped(opened: Open) -> None:
    journal = opened(size=2 * LEAST_FILE_BYTES)
    journal.append(1, key(1), payload(1, 3 * LEAST_FILE_BYTES))
    journal.flush()
    assert journal.counts.dropped == 1
    fill(journal, range(2, 3))
    assert held(journal, range(3)) == {2}


def test_the_default_size_is_a_tenth_of_what_is_free(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened()
    usage = type(module.shutil.disk_usage("/"))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(10**12, 0, 30 << 30))
    assert journal._files._limit(10 << 30) == 4 << 30
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(10**13, 0, 10**12))
    assert journal._files._limit(0) == module.SIZE


def test_little_free_disk_makes_smaller_files(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    usage = type(module.shutil.disk_usage("/"))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(10**12, 0, 200 << 20))
    journal = opened(tell=told.append)
    fill(journal, range(40), LEAST_FILE_BYTES)
    assert 10 <= len(held(journal, range(40), LEAST_FILE_BYTES)) < 21
    assert sum(file.nbytes for file in survey(journal.directory)) <= 22 << 20
    assert told == []
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(10**12, 0, 0))
    for number in range(40, 80):
        journal.append(1, key(number), payload(number, LEAST_FILE_BYTES))
        journal.flush(100)
    assert len(told) == 1
    assert "has no room for 1,048,576 bytes" in told[0]


def test_what_is_named_again_is_used_again(opened: Open) -> None:
    journal = opened()
    fill(journal, range(1))
    os.utime(files(journal)[0], (5, 5))
    assert key(1) not in journal
    assert files(journal)[0].stat().st_mtime == 5
    assert key(0) in journal
    assert files(journal)[0].stat().st_mtime > 5


def test_clocks_that_jump_change_nothing_but_the_order_of_removal(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened()
    fill(journal, range(2))
    journal.close()
    os.utime(files(journal)[0], (2**33, 2**33))
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    again = opened()
    fill(again, range(2, 4))
    again.close()
    assert held(opened(), range(4)) == set(range(4))


def test_clear_forgets_and_removes(opened: Open) -> None:
    journal = opened()
    fill(journal, range(4))
    for number in range(4, 30):
        journal.append(1 + number % 2, key(number), payload(number), meta=b"m" * number)
    journal.clear()
    assert held(journal, range(30)) == set()
    assert journal.flush(100)
    assert (files(journal), journal.held) == ([], (0, 0))
    fill(journal, range(3))
    assert held(journal, range(30)) == {0, 1, 2}
    assert journal.held == (3, 900)


WRITER = """
import itertools, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.store.test_journal import IDENTITY, key, payload
from ingot.store.journal import Journal
journal = Journal(Path(sys.argv[1]), "one", IDENTITY, size=64 << 20)
first = int(sys.argv[2])
for number in itertools.count(first):
    parts = payload(number, 1000 + number * 7919 % 90_000)
    journal.append(1 + number % 2, key(number), parts, meta=b"m" * (number % 5))
    if number == first + 1:
        assert journal.flush(60)
        print("go", flush=True)
    while not journal.takes(50 << 20): pass
"""


def kill_rounds(directory: Path, rounds: int, seed: int) -> None:
    """Writers, killed at random moments one after another: what is found afterwards is right."""
    draw, number, found = random.Random(seed), 0, 0
    root = Path(__file__).resolve().parents[2]
    for _ in range(rounds):
        text = WRITER.format(paths=[str(root), str(Path(ingot.__file__).resolve().parents[1])])
        child = subprocess.Popen([sys.executable, "-c", text, str(directory), str(number)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        time.sleep(draw.uniform(0.0, 0.15))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        after = Journal(directory, "one", IDENTITY)
        assert after.flush(100)
        for each in list(after._index):
            n = int.from_bytes(each.key, "little")
            expected = payload(n, 1000 + n * 7919 % 90_000)
            buffers = [np.zeros_like(part) for part in expected]
            assert after.read(each, buffers)
            assert all(np.array_equal(a, b) for a, b in zip(buffers, expected, strict=True))
            number = max(number, n + 1)
        assert after.counts.damaged == 0
        assert len(after._index) >= min(found, 300), "what was there stays"
        found = len(after._index)
        after.close()
    assert found > rounds
    assert len(list((directory / "one").iterdir())) <= 1 + (64 << 20) // (8 << 20), "half files are gone on with"


def test_writers_that_are_killed_leave_nothing_corrupt(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 4, seed=1)


@pytest.mark.slow
def test_writers_that_are_killed_a_hundred_times(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 100, seed=2)


def test_a_real_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.name != "posix"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("no file system can be mounted here")
    try:
        told: list[str] = []
        journal = Journal(place / "prefix", "one", IDENTITY, size=1 << 30, tell=told.append)
        for number in range(12):
            journal.append(1 + number % 2, key(number), payload(number, 1_000_000), meta=b"m" * number)
            assert journal.flush(100)
        assert len(told) == 1
        assert "No space left on device" in told[0]
        assert held(journal, range(12), 1_000_000) == {0, 1, 2, 3, 4, 5}
        journal.close()
        after = Journal(place / "prefix", "one", IDENTITY, size=1 << 30)
        assert after.flush(100)
        assert held(after, range(12), 1_000_000) == {0, 1, 2, 3, 4, 5}
        after.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_payload_is_not_taken_for_records(opened: Open) -> None:
    """Behind damage the next record is looked for by its mark, which a payload may hold too."""
    journal = opened()
    fill(journal, range(1))
    inner = np.frombuffer(files(journal)[0].read_bytes()[HEAD:], np.uint8).copy()
    inner[30] ^= 1  # its header is wrong
    journal.append(1, key(10), [inner])
    fill(journal, range(11, 12))
    journal.close()
    data = bytearray(files(journal)[0].read_bytes())
    at = data.find(records._MARK, HEAD + 1)
    data[at + 20] ^= 1
    files(journal)[0].write_bytes(data)
    after = opened()
    assert held(after, range(12)) == {0, 11}
    assert after.counts.damaged == 1
