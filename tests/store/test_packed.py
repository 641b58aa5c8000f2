"""Cache files of packed weights: whole or absent, and anything done to one is noticed."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from ingot.store import packed
from ingot.store.cache import cache_directory, cache_file, clear, entries, source_of
from ingot.store.packed import LINE, PackedFile, PackedWriter, find

ARRAYS = {
    "a.weight.f32": np.arange(3 * 5 * 16, dtype=np.float32).reshape(3, 5, 16),
    "a.norm": np.linspace(-1, 1, 7, dtype=np.float32),
    "b.weight.bf16": np.arange(2 * 3 * 16 * 2, dtype=np.uint16).reshape(2, 3, 16, 2),
    "c.weight.q8": np.arange(1088, dtype=np.uint64).astype(np.uint8),
    "d.bias": np.float32([3]),
}


def write(path: Path, source: str = "source", arrays: dict[str, np.ndarray] = ARRAYS, disk=None) -> Path:
    with PackedWriter(path, source, len(arrays)) as file:
        file._file = disk(file._file) if disk else file._file
        for name, array in arrays.items():
            file.write(name, array)
    return path


def is_right(path: Path) -> bool:
    """Whether the file opens and every byte is as it was written."""
    try:
        return PackedFile(path).verify()
    except ValueError:
        return False


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_what_is_written_is_mapped_back_on_cache_lines(tmp_path):
    file = find(write(tmp_path / "x"), "source")
    for name, array in ARRAYS.items():
        read = file.array(name)
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)
        assert read.ctypes.data % LINE == 0
        assert not read.flags.writeable
    assert file.verify()


def test_it_is_a_safetensors_file(tmp_path):
    with safe_open(write(tmp_path / "x"), "numpy") as file:
        assert set(ARRAYS) <= set(file.keys())
        assert np.array_equal(file.get_tensor("a.weight.f32"), ARRAYS["a.weight.f32"])


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_others_cannot_read_it(tmp_path):
    path = write(tmp_path / "deep" / "er" / "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_header_has_room_for_long_names(tmp_path):
    arrays = {
        f"model.language_model.layers.{i}.linear_attn.in_proj_qkv.weight.bf16": np.ones(3, np.float32)
        for i in range(500)
    }
    assert find(write(tmp_path / "x", "s" * 2000, arrays), "s" * 2000)


def test_another_source_is_stale(tmp_path):
    path = write(tmp_path / "x")
    assert find(path, "other") is None
    write(path, "other")
    assert find(path, "other")


@pytest.mark.parametrize("place", [0, 3, 8, 20, 300, 4095, 4096, 4097, -4096, -64, -1])
def test_a_changed_byte_is_noticed(tmp_path, place):
    path = write(tmp_path / "x")
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    assert find(path, "source") is None


def test_every_byte_of_the_data_is_in_the_checksum(tmp_path):
    """Also where the seal was put back; the header's padding alone may change."""
    path = write(tmp_path / "x")
    whole, sealed = path.read_bytes(), path.stat().st_mtime
    for place in range(whole.index(b"   "), len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        os.utime(path, (sealed, sealed))
        assert not is_right(path)


@pytest.mark.parametrize(
    "change", [(b'"F32"', b'"I32"'), (b"[7]", b"[7 "), (b"a.norm", b"a.form"), (b'"source"', b'"sourcf"')]
)
def test_the_header_is_in_the_checksum(tmp_path, change):
    path = write(tmp_path / "x")
    sealed = path.stat().st_mtime
    path.write_bytes(path.read_bytes().replace(*change, 1))
    os.utime(path, (sealed, sealed))
    assert not is_right(path)


@pytest.mark.parametrize("size", [0, 7, 100, 4096, 5000, -1])
def test_a_truncated_file_is_noticed(tmp_path, size):
    path = write(tmp_path / "x")
    os.truncate(path, size % path.stat().st_size)
    assert find(path, "source") is None


def test_a_copy_is_read_once_and_then_trusted(tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    copy.write_bytes(write(tmp_path / "x").read_bytes())
    assert find(copy, "source")
    monkeypatch.setattr(PackedFile, "verify", lambda self: pytest.fail("read again"))
    assert find(copy, "source")


def test_what_is_no_cache_file_is_none(tmp_path):
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "text"):
        assert find(path, "source") is None


class Full:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)


@pytest.mark.parametrize("room", [0, 1000, 2500])
def test_a_full_disk_leaves_what_was_there(tmp_path, room):
    path = write(tmp_path / "x", "before")
    with pytest.raises(OSError, match="No space"):
        write(path, "after", disk=lambda file: Full(file, room))
    assert find(path, "before")
    assert names(tmp_path) == ["x"]


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupt(file):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x", disk=interrupt)
    assert names(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from ingot.store.packed import PackedWriter
with PackedWriter(Path(sys.argv[1]), "source", 1) as file:
    file.write("a", np.zeros(1000, np.float32))
    print("there", flush=True)
    time.sleep(100)
"""


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_what_a_killed_writer_left_is_removed_later_and_a_living_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "ABANDONED_S", -10)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "slow")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"there\n"
    write(tmp_path / "x")
    assert len(names(tmp_path)) == 2
    process.kill()
    process.communicate()
    write(tmp_path / "x")
    assert names(tmp_path) == ["x"]


def test_a_young_partial_file_stays(tmp_path):
    young, old = tmp_path / ".a.partial", tmp_path / ".b.partial"
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 2 * packed.ABANDONED_S,) * 2)
    packed.remove_abandoned(tmp_path)
    assert names(tmp_path) == [".a.partial"]


PLACES = [
    ("linux", {"INGOT_CACHE": "/given"}, "/given"),
    ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/ingot"),
    ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/ingot"),
    ("linux", {}, "/home/me/.cache/ingot"),
    ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/me/Library/Caches/ingot"),
    ("win32", {"LOCALAPPDATA": "/local"}, "/local/ingot/cache"),
    ("win32", {}, "/home/me/AppData/Local/ingot/cache"),
]


@pytest.mark.parametrize(("platform", "variables", "place"), PLACES)
def test_the_place_is_the_platforms(monkeypatch, platform, variables, place):
    for name in ("INGOT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert cache_directory() == Path(place)


def test_entries_and_clear(tmp_path):
    for model in ("one", "two"):
        (tmp_path / model).mkdir()
        for fmt in ("bf16", "f32"):
            write(cache_file(tmp_path / "c", tmp_path / model, fmt), source_of(tmp_path / model, fmt, "1", []))
    (tmp_path / "c" / "mine.txt").write_text("not ours")
    found = entries(tmp_path / "c")
    assert [(Path(e.model).name, e.what) for e in found] == [
        ("one", "bf16"),
        ("one", "f32"),
        ("two", "bf16"),
        ("two", "f32"),
    ]
    assert all(entry.nbytes == entry.path.stat().st_size for entry in found)
    assert clear(tmp_path / "c", tmp_path / "one") == found[:2]
    assert entries(tmp_path / "c") == found[2:]
    found[2].path.write_bytes(b"damaged")
    assert [e.what for e in entries(tmp_path / "c")] == ["damaged", "f32"]
    clear(tmp_path / "c")
    assert names(tmp_path / "c") == ["mine.txt"]


def test_models_of_one_name_have_files_of_their_own(tmp_path):
    a, b = (cache_file(tmp_path, tmp_path / parent / "model", "f32") for parent in "ab")
    assert a != b
    assert cache_file(tmp_path, tmp_path / "a/../a/model", "f32") == a
