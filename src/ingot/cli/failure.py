"""How a command fails: one sentence on stderr, an exit code, no traceback."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

FAILED, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141  # 128 + SIGINT, 128 + SIGPIPE
# What a user can cure by giving something else; everything else is a failure at run time.
_USERS = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError)


class UsageError(Exception):
    """The command line itself is wrong: exit code 2."""


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors, near misses of options, and --debug."""

    def __init__(self, command: str, **settings: Any) -> None:
        super().__init__(
            prog=f"ingot {command}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **settings,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        # here, not in __init__: it is then the last line of the help
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0])
        return found

    def error(self, message: str) -> NoReturn:
        """One sentence; called by argparse."""
        raise UsageError(f"{message}\nhint: {self.prog} --help lists the options")

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            raise UsageError(f'{word!r} is one argument too many\nhint: put a prompt in quotes: {self.prog} -p "..."')
        options = [option for action in self._actions for option in action.option_strings]
        raise UsageError(f"there is no option {word!r}{near(word, options, self.prog)}")


def near(word: str, known: Iterable[str], prog: str) -> str:
    """A hint line with the known words that look like `word`, or where all are listed."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    if close:
        return f"\nhint: did you mean {' or '.join(close)}?"
    return f"\nhint: {prog} --help lists them"


def report(error: BaseException, debug: bool) -> int:
    """Tell the user what went wrong and return the exit code."""
    if isinstance(error, BrokenPipeError):
        abandon_stdout()
        return PIPE_CLOSED
    if debug and not isinstance(error, UsageError):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    code = BAD_INPUT if isinstance(error, (UsageError, *_USERS)) else FAILED
    if not debug or isinstance(error, UsageError):
        say(_sentence(error, code))
    return code


def say(message: str) -> None:
    """Write `ingot: message` to stderr; a terminal gets no control characters from it."""
    from ingot.cli.terminal import CLEAR_LINE, Terminal

    terminal = Terminal(sys.stderr)
    if terminal.ansi:  # a progress line may stand there
        terminal.command(CLEAR_LINE)
    terminal.write(f"ingot: {message}\n")


def show_warning(message: Warning | str, *_: Any) -> None:
    """`warnings.showwarning` for commands: one sentence, no source line."""
    say(f"warning: {message}")


def _sentence(error: BaseException, code: int) -> str:
    if isinstance(error, MemoryError):
        return "out of memory\nhint: --weights bf16 halves the weights of a f32 model"
    text = str(error).strip() or type(error).__name__
    if isinstance(error, UsageError) or (code == BAD_INPUT and not isinstance(error, OSError)):
        return text
    if isinstance(error, OSError):
        if error.errno is None:  # raised by us, with our own sentence
            return text
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    return f"{type(error).__name__}: {text}\nhint: repeat with --debug for the traceback"


def abandon_stdout() -> None:
    """Nobody reads any more: keep the interpreter's last flush from complaining."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
