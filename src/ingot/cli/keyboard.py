"""Reading the user's lines: editing and history where the terminal can, plain `input` where it cannot."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ingot.cli.terminal import Terminal


class Reader(Protocol):
    """Reads what the user types."""

    def read(self, prompt: str, default: str = "") -> str:
        """One message, several lines perhaps. Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C, both at an
        empty prompt."""


def open_reader(terminal: Terminal, history: bool, words: Sequence[str]) -> Reader:
    """The reader for this terminal; `words` complete with Tab."""
    if not terminal.ansi:
        return PlainReader()
    return EditingReader(history_file() if history else None, words, terminal.colour)


class PlainReader:
    """`input`, for terminals that cannot move the cursor."""

    def read(self, prompt: str, default: str = "") -> str:
        if default:
            sys.stdout.write(f"(was: {default})\n")
        return input("> " if prompt == "› " else prompt.replace("›", ">"))


class EditingReader:
    """prompt_toolkit: Enter sends, Esc Enter begins a line, pasted lines stay together, arrows walk the history."""

    def __init__(self, file: Path | None, words: Sequence[str], colour: bool) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.shortcuts import CompleteStyle

        class Commands(Completer):
            def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
                typed = document.text
                for word in words:
                    if typed.startswith("/") and word.startswith(typed):
                        yield Completion(word, start_position=-len(typed))

        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(file)) if file else InMemoryHistory(),
            multiline=True,
            key_bindings=_keys(),
            completer=Commands(),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            prompt_continuation=lambda width, number, wrapped: "" if wrapped else "· ".rjust(width),
        )
        self._style = "bold" if colour else ""

    def read(self, prompt: str, default: str = "") -> str:
        return self._session.prompt([(self._style, prompt)], default=default)


def _keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: Any) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


def history_file() -> Path | None:
    """The file of past lines, there and readable by its owner alone; None (after a warning) where it cannot be."""
    from ingot.cli.failure import say

    path = data_directory() / "chat_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        path.chmod(0o600)
    except OSError as error:
        say(f"warning: past lines will not be kept: {path}: {error.strerror}")
        return None
    return path


def data_directory() -> Path:
    """Where this platform keeps a user's data of Ingot."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "ingot"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "ingot"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "ingot"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While an answer is painted, typed keys wait for the next prompt instead of showing up in it."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    try:
        stdin = sys.stdin.fileno()
        before = termios.tcgetattr(stdin)
    except (OSError, ValueError, termios.error):  # not a terminal
        yield
        return
    silent = [*before]
    silent[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(stdin, termios.TCSANOW, silent)
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSANOW, before)
