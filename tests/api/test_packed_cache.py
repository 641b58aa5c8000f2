"""A second start maps what the first one packed: the same bits, and nothing of the checkpoint is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.prompt import Tokenizer
from ingot.store import Checkpoint, write_random_checkpoint
from tests.model.small import RAW
from tests.prompt.small_tokenizer import write_small_tokenizer

pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")

IDS = [1, 5, 3, 40, 7]
FORMATS = ["f32", "bf16", "q8", "q4"]


@pytest.fixture
def model(tmp_path):
    return write_random_checkpoint(tmp_path / "model", RAW, dtype="bf16", mtp=False)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def files(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def rewrite(model: Path, seed: int = 1) -> None:
    """Other weights in a file of the same size and header."""
    write_random_checkpoint(model, RAW, dtype="bf16", seed=seed, mtp=False)


def never_read(monkeypatch):
    """Only the embedding's table may be mapped, unread: its rows are used as stored."""
    read = Checkpoint.read

    def guarded(checkpoint, name, check_finite=True):
        assert name.endswith("embed_tokens.weight"), f"{name} of the checkpoint was read"
        assert not check_finite
        return read(checkpoint, name, check_finite)

    monkeypatch.setattr(Checkpoint, "read", guarded)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("fmt", FORMATS)
def test_a_second_start_has_the_same_bits_and_reads_no_weight(tmp_path, cache, monkeypatch, fmt, tied):
    model = write_random_checkpoint(tmp_path / "model", RAW | {"tie_word_embeddings": tied}, dtype="f32")
    plain = ingot.load(model, weights=fmt, cache=False).logits(IDS)
    first = ingot.load(model, weights=fmt, cache=cache)
    assert np.array_equal(first.logits(IDS), plain)
    assert [first.cache_file] == files(cache)
    never_read(monkeypatch)
    second = ingot.load(model, weights=fmt, cache=cache)
    assert second.cache_file is None
    assert np.array_equal(second.logits(IDS), plain)


def test_a_small_model_is_not_worth_a_file(model, monkeypatch, tmp_path):
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path / "own"))
    assert ingot.load(model).cache_file is None
    assert not (tmp_path / "own").exists()
    monkeypatch.setattr("ingot.cached.WORTH_BYTES", 0)
    assert ingot.load(model).cache_file.parent == tmp_path / "own"


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_other_backends_keep_nothing(model, cache, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    ingot.load(model, backend=backend, weights="f32", cache=cache)
    assert not cache.exists()


def test_formats_have_files_of_their_own(model, cache):
    for fmt in FORMATS:
        ingot.load(model, weights=fmt, cache=cache)
    assert len(files(cache)) == len(FORMATS)
    assert all(ingot.load(model, weights=fmt, cache=cache).cache_file is None for fmt in FORMATS)


def test_changed_weights_are_packed_again(model, cache):
    old = ingot.load(model, cache=cache)
    before = old.logits(IDS)
    rewrite(model)
    new = ingot.load(model, cache=cache)
    assert new.cache_file
    assert len(files(cache)) == 1
    assert np.array_equal(new.logits(IDS), ingot.load(model, cache=False).logits(IDS))
    assert not np.array_equal(new.logits(IDS), before)
    assert np.array_equal(old.logits(IDS), before)  # the replaced file stays mapped


@pytest.mark.skipif(os.name != "posix", reason="the time of the last change is POSIX's")
def test_changed_weights_under_an_old_date_are_noticed(model, cache):
    ingot.load(model, cache=cache)
    file = model / "model.safetensors"
    date = file.stat().st_mtime_ns
    rewrite(model)
    os.utime(file, ns=(date, date))
    assert ingot.load(model, cache=cache).cache_file


def test_a_new_layout_makes_old_files_stale(model, cache, monkeypatch):
    from ingot.ops.native import OpSet

    ingot.load(model, cache=cache)
    monkeypatch.setattr(OpSet, "PACK_VERSION", OpSet.PACK_VERSION + 1)
    assert ingot.load(model, cache=cache).cache_file
    monkeypatch.setattr("ingot.cached.POLICY", -1)
    assert ingot.load(model, cache=cache).cache_file


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_a_damaged_file_is_made_again(model, cache, damage):
    plain = ingot.load(model, cache=cache).logits(IDS)
    path = files(cache)[0]
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes({"flip": data, "truncate": data[:-1], "empty": b"", "text": b"not at all"}[damage])
    again = ingot.load(model, cache=cache)
    assert again.cache_file == path
    assert np.array_equal(again.logits(IDS), plain)
    assert ingot.load(model, cache=cache).cache_file is None


def test_a_model_that_is_gone_is_missed(model, cache):
    ingot.load(model, cache=cache)
    (model / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no weights|holds no"):
        ingot.load(model, cache=cache)


def no_space(*_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_costs_the_file_and_not_the_answer(model, cache, monkeypatch):
    plain = ingot.load(model, cache=False).logits(IDS)
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.warns(UserWarning, match="cannot be kept for the next start: No space left") as warned:
        loaded = ingot.load(model, cache=cache)
    assert len(warned) == 1
    assert np.array_equal(loaded.logits(IDS), plain)
    assert files(cache) == []


def test_a_place_that_cannot_be_written_costs_the_file_and_not_the_answer(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be kept for the next start: Not a directory"):
        assert ingot.load(model, cache=tmp_path / "file" / "below").logits(IDS).any()


def test_an_interrupt_while_packing_leaves_nothing(model, cache):
    def interrupt(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingot.load(model, cache=cache, progress=interrupt)
    assert files(cache) == []


def test_progress_counts_the_bytes_of_the_weights(model, cache):
    for place in (False, cache):
        seen: list[tuple[int, int]] = []
        ingot.load(model, cache=place, progress=lambda *share, seen=seen: seen.append(share))
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] > 0


START = """
import sys, hashlib, ingot
print(hashlib.sha256(ingot.load(sys.argv[1], cache=sys.argv[2]).logits([1, 5, 3, 40, 7]).tobytes()).hexdigest())
"""


def test_two_that_start_at_once_get_the_same_and_leave_one_file(model, cache):
    run = [sys.executable, "-c", START, str(model), str(cache)]
    both = [subprocess.Popen(run, stdout=subprocess.PIPE) for _ in range(2)]
    shown = {process.communicate(timeout=100)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(shown) == 1
    assert len(files(cache)) == 1
    assert ingot.load(model, cache=cache).cache_file is None


def test_weights_must_be_finite_when_they_are_packed(model, cache):
    file = model / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-2:] = (0x7FC0).to_bytes(2, "little")
    file.write_bytes(data)
    with pytest.raises(ValueError, match="weights must be finite"):
        ingot.load(model, cache=cache)
    assert files(cache) == []


TEXT = "hello world <|im_end|> what is the user? naïve 中文"


@pytest.fixture(params=[False, True], ids=["whole", "parts"])
def with_words(request, tmp_path):
    """A model with a tokenizer, in one file or in three."""
    path = tmp_path / "model"
    vocabulary = write_small_tokenizer(path, parts=request.param)
    return write_random_checkpoint(path, RAW | {"vocab_size": vocabulary}, dtype="f32", mtp=False)


def test_the_second_start_does_not_build_the_tokenizer(with_words, cache, monkeypatch):
    first = ingot.load(with_words, cache=cache)
    monkeypatch.setattr(Tokenizer, "from_directory", lambda *_: pytest.fail("the tokenizer was built"))
    second = ingot.load(with_words, cache=cache)
    assert len(files(cache)) == 2
    assert second.encode(TEXT).ids == first.encode(TEXT).ids
    assert second.stop_ids == first.stop_ids
    assert second.generate("hello", max_tokens=20, seed=1).text == first.generate("hello", max_tokens=20, seed=1).text


@pytest.mark.parametrize("with_words", [False], indirect=True)
def test_a_changed_or_damaged_tokenizer_is_compiled_again(with_words, cache):
    ids = ingot.load(with_words, cache=cache).encode(TEXT).ids
    place = next(path for path in files(cache) if "tokenizer" in path.name)
    place.write_bytes(place.read_bytes()[:-1])
    assert ingot.load(with_words, cache=cache).encode(TEXT).ids == ids
    text = (with_words / "tokenizer.json").read_text()
    (with_words / "tokenizer.json").write_text(text.replace('"<think>"', '"<thinq>"'))
    again = [ingot.load(with_words, cache=cache).tokenizer for _ in range(2)]
    assert [tokenizer.has_token("<thinq>") for tokenizer in again] == [True, True]
    assert len(files(cache)) == 2


@pytest.mark.parametrize("with_words", [False], indirect=True)
def test_another_version_of_the_library_or_the_tables_compiles_again(with_words, cache, monkeypatch):
    ingot.load(with_words, cache=cache)
    built = []
    monkeypatch.setattr(Tokenizer, "tables", lambda self: built.append(self))
    for name in ("ingot.cached.VERSION", "tokenizers.__version__"):
        ingot.load(with_words, cache=cache)
        before = len(built)
        monkeypatch.setattr(name, "another")
        ingot.load(with_words, cache=cache)
        assert len(built) == before + 1


def test_a_small_tokenizer_is_not_worth_a_file(with_words, monkeypatch, tmp_path):
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path / "own"))
    ingot.load(with_words)
    assert not (tmp_path / "own").exists()
    monkeypatch.setattr("ingot.cached.WORTH_TOKENIZER_BYTES", 0)
    ingot.load(with_words)
    assert len(files(tmp_path / "own")) == 1
