"""What reaches a terminal: no control of it by a model, moving thoughts that fold, lines that go away."""

from __future__ import annotations

import io
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.cli import terminal as terminal_module
from ingot.cli.progress import Progress
from ingot.cli.terminal import Terminal, harmless, width
from ingot.cli.thinking import MARGIN, ROWS, ThinkingView, wrap
from tests.cli.small_screen import SmallScreen

COLUMNS = 40


@pytest.fixture(autouse=True)
def _terminal_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(Terminal, "size", (COLUMNS, 24))


@given(st.text())
def test_harmless_text_has_no_control_characters(text: str) -> None:
    shown = harmless(text)
    assert all(unicodedata.category(c) not in ("Cc", "Zl", "Zp") for c in shown if c not in "\n\t")
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(st.lists(st.text(alphabet="a\x1b[31m\x9b\x07\r\n\u202e語")))
def test_harmless_pieces_are_the_harmless_whole(pieces: list[str]) -> None:
    assert "".join(map(harmless, pieces)) == harmless("".join(pieces))


def test_ordinary_text_is_left_alone() -> None:
    text = "Größe\t語 👩‍🚀 العربية\n"
    assert harmless(text) == text
    assert harmless("\x1b[2J") == "␛[2J"


def test_a_file_gets_neither_style_nor_change() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.write("a\x1b[1m")
    terminal.dim("b\r")
    assert stream.getvalue() == "a\x1b[1mb\r"
    assert not terminal.ansi


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "")])
def test_no_style_where_none_is_wanted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    terminal = Terminal(SmallScreen())
    assert terminal.dimmed("x\x1by") == "x␛y"
    assert not terminal.colour


@given(st.text(alphabet="ab  語é\u0301\u200d"), st.integers(2, 12))
def test_wrapped_rows_fit_and_lose_nothing(text: str, room: int) -> None:
    rows = wrap(text, room)
    assert "".join(rows) == text
    assert all(sum(map(width, row)) <= room for row in rows)


@given(st.lists(st.text(alphabet="ab cd\n", max_size=30), max_size=12))
def test_thoughts_show_their_last_rows_and_fold_to_one(pieces: list[str]) -> None:
    screen = SmallScreen(COLUMNS)
    screen.write("before\n")
    view = ThinkingView(Terminal(screen))
    for piece in pieces:
        view.feed(piece)
        *whole, tail = "".join(pieces[: pieces.index(piece) + 1]).split("\n") if pieces.count(piece) == 1 else [None]
        if tail is not None:
            room = COLUMNS - len(MARGIN) - 3
            rows = [row for line in whole for row in wrap(line, room)] + (wrap(tail, room) if tail else [])
            expected = [(MARGIN + row).rstrip() for row in rows][-ROWS:]
            assert screen.lines == ["before", *expected]
    view.done("thought for 1.0 s, 3 tokens")
    screen.write("answer")
    assert screen.lines == ["before", "thought for 1.0 s, 3 tokens", "answer"]


def test_unfolded_thoughts_stay_and_the_answer_begins_a_line() -> None:
    screen = SmallScreen(COLUMNS)
    view = ThinkingView(Terminal(screen), fold=False)
    view.feed("\nseven and ")
    view.feed("five")
    view.done("thought")
    assert screen.lines == ["seven and five", "thought"]


def test_hidden_thoughts_leave_the_summary_alone() -> None:
    screen = SmallScreen(COLUMNS)
    view = ThinkingView(Terminal(screen), show=False)
    view.feed("secret")
    view.done("thought")
    assert screen.lines == ["thought"]


def test_a_resized_terminal_erases_nothing_that_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = SmallScreen(COLUMNS)
    screen.write("before\n")
    view = ThinkingView(Terminal(screen))
    view.feed("one two three four five six seven eight nine ten")
    monkeypatch.setattr(Terminal, "size", (20, 24))
    view.feed(" eleven")
    view.done("thought")
    painted = [MARGIN + "one two three four five six seven", MARGIN + "eight nine ten"]
    assert screen.lines == ["before", *painted, "thought"]


@pytest.mark.parametrize(
    ("at", "shown"),
    [(lambda line: line.at(1, 4), "25%"), (lambda line: line.at_bytes(4 * 10**8, 16 * 10**8), "25% of 1.6 GB")],
)
def test_progress_shows_late_and_vanishes(at: Any, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.cli.progress.PATIENCE_S", 0.02)
    monkeypatch.setattr("ingot.cli.progress.EVERY_S", 0.01)
    screen = SmallScreen(COLUMNS)
    with Progress(Terminal(screen), "loading x") as line:
        at(line)
        until = time.monotonic() + 10
        while screen.lines != [f"loading x {shown} · 0 s"]:
            assert time.monotonic() < until, screen.lines
            time.sleep(0.005)
    assert screen.lines == [""]


def test_progress_says_nothing_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.cli.progress.PATIENCE_S", 0.0)
    stream = io.StringIO()
    with Progress(Terminal(stream), "loading"):
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_every_control_code_is_in_the_table() -> None:
    table = terminal_module._CONTROLS
    missing = [c for c in range(0x110000) if unicodedata.category(chr(c)) == "Cc" and c not in table]
    assert missing == [0x09, 0x0A]
