"""The command `ingot`: one module a command, imported only when it is the one asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# name -> what `ingot --help` says. Each name is a module here with `parser()` and `run(args) -> exit code`.
COMMANDS = {
    "bench": "measure speed and memory beside what the machine allows",
    "cache": "show or clear the packed weights kept on disk",
    "chat": "talk with a model, or ask one question with -p",
    "doctor": "check this installation and say what runs how",
    "eval": "measure a model on a task",
    "plan": "say what a model takes, whether it fits, how fast it can be",
    "pull": "download a model from the Hugging Face hub",
    "serve": "answer OpenAI clients over HTTP",
    "verify": "check a checkpoint, and what this machine computes of it",
}

FIRST_STEPS = """\
Ingot runs Qwen3.5 models on the machine you own.

  ingot chat -p "What is 17 + 25?"     ask the bundled nugget, offline
  ingot chat                           talk with it
  ingot chat Qwen/Qwen3.5-0.8B         talk with a real assistant
  ingot --help                         all commands
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `argv` (None: the process's); return the exit code: 0, 1 failure at run time, 2 bad input, 130 Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _open_streams()
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except SystemExit as leaving:  # argparse's --help and --version
        return leaving.code if isinstance(leaving.code, int) else 1
    except BaseException as error:
        from ingot.cli.failure import report

        return report(error, debug="--debug" in words)


def _dispatch(words: list[str]) -> int:
    if not words:
        sys.stdout.write(FIRST_STEPS)
        return 0
    if words[0] in ("-h", "--help", "help"):
        return _help(words[1:])
    if words[0] in ("-V", "--version"):
        from ingot import __version__

        sys.stdout.write(f"ingot {__version__}\n")
        return 0
    return _run(words[0], words[1:])


def _help(words: list[str]) -> int:
    if words and words[0] in COMMANDS:
        return _run(words[0], ["--help"])
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    rest = ["  ingot COMMAND --help", "  ingot --version", "  --debug after a command shows the traceback of an error"]
    sys.stdout.write("\n".join(["usage: ingot COMMAND ...", "", *lines, "", *rest]) + "\n")
    return 0


def _run(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        from ingot.cli.failure import UsageError, near

        if " " in name:
            from ingot.cli.chat import asking

            raise UsageError(f"there is no command {name!r:.80}\nhint: {asking(name)}")
        if "/" in name or os.path.exists(name):
            raise UsageError(f"there is no command {name!r:.80}\nhint: to talk with a model: ingot chat {name}")
        what = "option" if name.startswith("-") else "command"
        raise UsageError(f"there is no {what} {name!r}{near(name, [*COMMANDS, '--help', '--version'], 'ingot')}")
    from importlib import import_module

    command = import_module(f"ingot.cli.{name}")
    args = command.parser().parse_args(words)
    args.words = words  # a command may start itself again
    _prepare(args.debug)
    code: int = command.run(args)
    return code


def _open_streams() -> None:
    """A shell can start us with closed streams (`>&-`); Python then has None in their places."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    if sys.stdout is None:
        sys.stdout = sys.stderr
        raise OSError("stdout is closed, nothing can be answered")


def _prepare(debug: bool) -> None:
    """Streams and warnings as a command wants them."""
    for stream in (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):
            continue
        if stream.isatty():  # a terminal without UTF-8 shows "?" for what it cannot, instead of ending the answer
            stream.reconfigure(errors="replace")
        else:  # a file gets UTF-8, also where the system's code page is another
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    if not debug:
        import warnings

        from ingot.cli.failure import show_warning

        warnings.showwarning = show_warning  # type: ignore[assignment]
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
