"""The fuzzers find what is planted: exceptions, crashes, hangs, runaway memory, bad sentences; and repeat it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tools.fuzz import minimise
from tools.fuzz.mutate import Mutator
from tools.fuzz.target import Target, execute, what_is_wrong_with
from tools.fuzz.targets import TARGETS
from tools.fuzz.worker import Worker, explore, once

ROOT = Path(__file__).resolve().parents[2]


def planted(data: bytes) -> None:
    """A reader with five mistakes, one a letter."""
    if b"K" in data:
        raise KeyError("k")
    if b"S" in data:
        raise ValueError("one line\nand another")
    if b"C" in data:
        os.abort()
    if b"H" in data:
        time.sleep(60)
    if b"M" in data:
        bytearray(1 << 32)
    if b"R" in data:
        raise ValueError("this is not what I read")


TARGET = Target("config", planted, seconds=0.4, memory=64 << 20)
FOUND = {
    b"xxKxx": "KeyError at ",
    b"xxSxx": "sentence at ",
    b"xxCxx": "crash SIGABRT",
    b"xxHxx": "hang at ",
    b"xxMxx": "MemoryError at ",
}


@pytest.mark.parametrize("data", FOUND, ids=FOUND.get)
def test_a_planted_mistake_is_found(data):
    finding = once(TARGET, data)
    assert finding is not None
    assert finding.signature.startswith(FOUND[data])
    assert finding.data == data


@pytest.mark.parametrize("data", [b"", b"xx", b"xxRxx"])
def test_a_refusal_is_no_finding(data):
    assert once(TARGET, data) is None


def test_a_finding_is_made_small():
    finding = execute(TARGET, b"a long text with the letter K in its middle, and more")
    assert finding is not None
    assert minimise.minimised(TARGET, finding) == b"K"


def test_exploring_reaches_what_no_input_of_the_corpus_has():
    worker = Worker(TARGET, explore(1, [b"a", b"b"]))
    end = time.monotonic() + 30
    while time.monotonic() < end and worker.watch() and not worker.found:
        pass
    worker.end()
    assert worker.found
    assert worker.executions > 0


def test_changes_are_a_function_of_the_seed():
    def made(seed: int) -> list[bytes]:
        mutator = Mutator(Random(seed), [b"token"])
        return [mutator.mutated(b'{"a": [1, {"b": "c"}]}', b"other") for _ in range(200)]

    assert made(3) == made(3)
    assert len(set(made(3))) > 100


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("f is 3; it must be 4\nhint: give 4", ""),
        ("", "is empty"),
        ("a\nb", "more lines"),
        ("a\x1b[2J", "control characters"),
        ("a" * 601, "has 601 characters"),
    ],
)
def test_what_a_sentence_is(message, wrong):
    assert wrong in what_is_wrong_with(message)
    assert bool(wrong) == bool(what_is_wrong_with(message))


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_input_of_the_corpora_is_read_as_promised(name):
    assert TARGETS[name].corpus()
    assert TARGETS[name].tokens()
    small = sorted(TARGETS[name].corpus(), key=len)[:12]
    assert [execute(TARGETS[name], data) for data in small] == [None] * len(small)


def test_the_command(tmp_path):
    words = [sys.executable, "-m", "tools.fuzz", "safetensors", "--minutes", "0.02", "--output", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "safetensors: " in done.stdout
    assert ", 0 findings" in done.stdout
