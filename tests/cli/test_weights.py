"""Which weight format `ingot chat` takes when none is asked for."""

from __future__ import annotations

import argparse
import io

import pytest

from ingot.cli import chat
from ingot.cli.terminal import Terminal
from ingot.store import write_random_checkpoint
from tests.model.small import RAW


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "SMALL_BYTES", 0)
    return write_random_checkpoint(tmp_path / "m", RAW, dtype="bf16")


def chosen(place, monkeypatch, free, **options):
    monkeypatch.setattr("ingot.memory.available", lambda: free)
    args = argparse.Namespace(**{"backend": None, "kv": None, "calibration": None} | options)
    out = io.StringIO()
    return chat._weights(args, place, Terminal(out)), out.getvalue()


def test_q8_where_it_fits_else_q4_and_says_so(place, monkeypatch):
    assert chosen(place, monkeypatch, 1 << 40) == ("q8", "weights in q8 (--weights bf16: as stored)\n")
    assert chosen(place, monkeypatch, None)[0] == "q8"
    assert chosen(place, monkeypatch, 1 << 20) == ("q4", "weights in q4 (--weights bf16: as stored)\n")


def test_as_stored_where_quantising_is_not_worth_it_or_not_possible(place, monkeypatch):
    assert chosen(None, monkeypatch, 1 << 40) == (None, "")
    assert chosen(place, monkeypatch, 1 << 40, backend="torch") == (None, "")
    monkeypatch.setattr(chat, "SMALL_BYTES", 1 << 40)
    assert chosen(place, monkeypatch, 1 << 40) == (None, "")


def test_a_calibration_means_q4(place, monkeypatch):
    assert chosen(None, monkeypatch, 1 << 40, calibration="p.jsonl")[0] == "q4"
