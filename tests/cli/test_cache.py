"""`ingot cache`: what is kept, removing it, and finding damage; and the commands that fill it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.cli import main
from ingot.engine import Request
from tests.api.small_model import write_small_model
from tests.cli.run_ingot import run

pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the files of two models."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("INGOT_CACHE", str(cache))
    for name in ("one", "two"):
        ingot.load(write_small_model(tmp_path / name), cache=cache)
    return cache


def shown(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["cache", *words]) == code
    return capsys.readouterr().out


def test_list_shows_sizes_models_and_the_place(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    expected = [[what, f"{kept.parent}/{name}"] for name in ("one", "two") for what in ("f32", "tokenizer")]
    assert [line.split()[2:] for line in lines[:-1]] == expected
    assert lines[-1].endswith(f"in {kept}")
    assert shown(capsys, "list").splitlines() == lines
    assert len(shown(capsys, "list", str(kept.parent / "one")).splitlines()) == 3


def test_json_counts_the_bytes(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(shown(capsys, "--json"))
    assert record["directory"] == str(kept)
    assert record["bytes"] == sum(file["bytes"] for file in record["files"])
    assert record["bytes"] == sum(path.stat().st_size for path in kept.iterdir())


def test_clear_removes_one_model_or_all(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.rename(kept.parent / "two", kept.parent / "elsewhere")
    assert "the model is gone" in shown(capsys)
    assert str(kept.parent / "two") in shown(capsys, "clear", str(kept.parent / "two"))
    assert len(list(kept.iterdir())) == 2
    shown(capsys, "clear")
    assert list(kept.iterdir()) == []
    assert shown(capsys).split() == ["0.0", "MB", "in", str(kept)]


def test_verify_finds_a_flipped_bit_under_an_unbroken_seal(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "verify").count("every byte is right") == 4
    path = next(path for path in kept.iterdir() if "f32" in path.name)
    sealed, data = path.stat().st_mtime, bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    os.utime(path, (sealed, sealed))
    assert "damaged" in shown(capsys, "verify", code=1)
    path.write_bytes(b"nothing")
    assert "damaged" in shown(capsys, code=1)


def test_nothing_kept_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path / "none"))
    assert shown(capsys).split() == ["0.0", "MB", "in", str(tmp_path / "none")]
    assert main(["cache", "clear", "nonsense"]) == 2


def test_chat_says_once_what_it_keeps_and_no_cache_keeps_nothing(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "model", vocab_size=70_000, hidden_size=256)  # 72 MB: worth a file
    words, place = ["chat", str(model), "-p", "hello", "--max-tokens", "2"], str(tmp_path / "cache")
    none = run(*words, "--no-cache", real=True, INGOT_CACHE=place)
    assert not os.path.exists(place)
    first, second = (run(*words, real=True, INGOT_CACHE=place) for _ in range(2))
    assert [done.returncode for done in (none, first, second)] == [0, 0, 0], none.stderr
    assert f"packed weights kept for the next start: {place}" in first.stderr.decode()
    assert b"packed weights" not in second.stderr + none.stderr


def test_states_of_prompts_are_listed_verified_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("INGOT_CACHE", str(cache))
    journals = []
    for name in ("one", "two"):
        loaded = ingot.load(write_small_model(tmp_path / name), cache=cache, prefix_disk=True)
        list(loaded.engine.generate(Request(np.arange(200) % 90, max_tokens=4)))
        journals.append(loaded.engine.cache.disk.journal)
        assert journals[-1].flush(100)
    lines = [line.split() for line in shown(capsys).splitlines() if line.split()[2] == "prompts"]
    assert [line[3] for line in lines] == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert shown(capsys, "verify").count("every byte is right") == 6
    (path,) = journals[0].folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert shown(capsys, "verify", code=1).count("damaged") == 1
    assert "prompts" in shown(capsys, "clear", str(tmp_path / "one"))
    assert not journals[0].folder.exists()
    assert journals[1].folder.exists()
    shown(capsys, "clear")
    assert not journals[1].folder.exists()
    for journal in journals:
        journal.close()
