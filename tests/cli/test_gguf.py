"""The command on GGUF files, as their users would call it."""

from __future__ import annotations

import json

import pytest

from ingot.cli import target
from ingot.store import write_random_checkpoint
from tests.cli.run_ingot import run
from tests.cli.test_weights import chosen
from tests.prompt.small_tokenizer import write_small_tokenizer
from tests.store import gguf_files as files
from tests.store.store_files import config


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with model.gguf and its vision tower, which does not say so in its name."""
    place = tmp_path_factory.mktemp("gguf")
    raw = config(vocab_size=write_small_tokenizer(place / "hf") + 3)
    checkpoint = write_random_checkpoint(place / "hf", raw, vision=True)
    (place / "model.gguf").write_bytes(
        files.gguf(files.text_metadata(raw["text_config"]), files.text_tensors(checkpoint, raw))
    )
    tower = files.vision_metadata(raw["vision_config"]), files.vision_tensors(checkpoint)
    (place / "tower.gguf").write_bytes(files.gguf(*tower))
    return place


def test_chat_answers_from_a_gguf(place):
    words = ("chat", str(place / "model.gguf"), "-p", "hello", "--max-tokens", "3", "--json", "--no-cache")
    done = run(*words, "--mmproj", str(place / "tower.gguf"), real=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["completion_tokens"] <= 3


def test_a_wrong_file_leads_to_the_right_one(place):
    done = run("chat", str(place / "tower.gguf"), "-p", "hello", real=True)
    assert done.returncode == 2
    assert b"is the vision tower of a model (mmproj), not the model\nhint: give the model's own file" in done.stderr
    done = run("chat", str(place), "-p", "hello", real=True)
    assert done.returncode == 2
    assert b"holds 2 GGUF models: model.gguf, tower.gguf\nhint: give one of the files" in done.stderr


def test_plan_knows_a_gguf(place):
    done = run("plan", str(place / "model.gguf"), "--weights", "q8", "--json", real=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plans"][0]["weights"] == "q8"


def test_the_target_of_bench_and_plan_is_the_file(place):
    found = target._model(str(place / "model.gguf"))
    assert (found.path, found.stored) == (place / "model.gguf", "bf16")


def test_chat_chooses_a_format_for_a_gguf_too(place, monkeypatch):
    monkeypatch.setattr("ingot.cli.chat.SMALL_BYTES", 0)
    assert chosen(place / "model.gguf", monkeypatch, 1 << 40)[0] == "q8"
    assert chosen(place / "model.gguf", monkeypatch, 1 << 10)[0] == "q4"
    monkeypatch.setattr("ingot.cli.chat.SMALL_BYTES", 1 << 40)
    assert chosen(place / "model.gguf", monkeypatch, 1 << 40)[0] is None
