"""`ingot chat` at a terminal: read a line, run a slash command or answer, again."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingot.cli import keyboard, pictures, slash
from ingot.cli.answer import Answer, receive
from ingot.cli.conversation import Conversation, Message, taken_apart
from ingot.cli.screen import ScreenPainter, call_line, summary_line
from ingot.cli.terminal import Terminal

HINT = "/help lists commands · Esc Enter: new line · Ctrl-C: stop · Ctrl-D: leave"


@dataclass
class Session:
    """A chat at a terminal. `draft` goes into the next prompt for editing; `files` it has written or read."""

    model: Any
    name: str
    conversation: Conversation
    terminal: Terminal
    reader: keyboard.Reader
    show_thinking: bool = True
    fold: bool = True
    debug: bool = False
    draft: str = ""
    images: list[Message] = field(default_factory=list)  # parts that are shown with the next turn
    last: Answer | None = None
    files: set[Path] = field(default_factory=set)

    def note(self, text: str) -> None:
        """A line of ours, in grey."""
        self.terminal.dim(text + "\n")

    def ask(self, text: str) -> None:
        """A user's turn and the model's answer to it; a line whose picture is refused is given back for editing."""
        words, dropped = pictures.dragged(text)
        try:
            self.show([(pictures.kind_of(path), path) for path in dropped])
        except (ValueError, OSError) as error:
            self._tell(error)
            self.draft = text
            return
        if not words:
            self.note("what about it?")
            return
        self.conversation.say(words, self.images)
        self.images = []
        self.answer_or_take_back()

    def show(self, files: list[tuple[str, str]]) -> None:
        """These (kind, file) with the next turn, each told with its size; none of them when one is refused."""
        most = self.conversation.max_pixels
        for told in [pictures.described(self.model, kind, path, most) for kind, path in files]:
            self.note(told)
        self.images += [pictures.part(path, kind, most) for kind, path in files]

    def answer_or_take_back(self) -> None:
        """The answer to the last turn; a turn that the model refuses is given back for editing."""
        if not self.answer() and self.edit() and self.images:
            self.note("/image none leaves its pictures out")

    def edit(self) -> bool:
        """Take the last turn back into the draft, its pictures with it; False when there is none."""
        message = self.conversation.take_back()
        if message is not None:
            self.draft, images = taken_apart(message)
            self.images = [*images, *self.images]
        return message is not None

    def answer(self) -> bool:
        """The model's next turn, and further ones after tool calls; False when it was refused (and told so)."""
        while True:
            painter = ScreenPainter(self.terminal, self.fold, self.show_thinking)
            try:
                with keyboard.quiet():
                    answer = receive(self.model, self.conversation, painter)
            except Exception as error:  # whatever it is, the conversation is worth more
                self._tell(error)
                return False
            self.last = answer
            self.note(summary_line(answer))
            if answer.content.strip() or answer.tool_calls:
                self.conversation.messages.append(answer.message)
            if not answer.tool_calls or not self._results(answer.tool_calls):
                return True

    def _tell(self, error: Exception) -> None:
        if self.debug:
            traceback.print_exception(error)
        text = str(error) or "out of memory"
        ours = isinstance(error, (ValueError, MemoryError)) or (isinstance(error, OSError) and error.errno is None)
        self.note(f"error: {text if ours else f'{type(error).__name__}: {text}'}")

    def _results(self, calls: list[dict[str, Any]]) -> bool:
        """Ask the user for what each call returns; False when the user would rather go on talking."""
        for call in calls:
            try:
                result = self.reader.read(f"{call['function']['name']} returns › ")
            except (EOFError, KeyboardInterrupt):
                self.note(f"no result for {call_line(call)}")
                return False
            message = {"role": "tool", "content": result}
            if call.get("id"):
                message["tool_call_id"] = call["id"]
            self.conversation.messages.append(message)
        return True


def converse(load: Callable[[], Any], name: str, conversation: Conversation, args: argparse.Namespace) -> int:
    """Load the model and talk until the user leaves; return the exit code."""
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _leave)  # or a killed chat would leave the terminal without echo
    with keyboard.quiet():
        model = load()
    terminal = Terminal(sys.stdout)
    reader = keyboard.open_reader(terminal, not args.no_history, [f"/{command}" for command in slash.COMMANDS])
    session = Session(model, name, conversation, terminal, reader, args.show_thinking is not False, debug=args.debug)
    terminal.command(f"{introduction(model, name)}\n")
    session.note(HINT)
    session.show(args.shown)
    _loop(session)
    return 0


def introduction(model: Any, name: str) -> str:
    """One line: what runs, how large, on which op set."""
    from ingot import __version__
    from ingot.cli.terminal import harmless
    from ingot.spec.cost import parameters

    count = parameters(model.config, "text")
    size = f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.{0 if count >= 1e8 else 1}f}M"
    return f"Ingot {__version__} · {harmless(name)} · {size} parameters · {backend_of(model)}"


def backend_of(model: Any) -> str:
    """`native avx2, 2 threads`, `reference` or `torch`."""
    ops = model.engine.ops
    module = getattr(ops, "__name__", type(ops).__module__).rsplit(".", 1)[-1]
    if module == "native":
        return f"native {ops.isa}, {ops.threads} thread{'' if ops.threads == 1 else 's'}"
    return {"autograd": "torch"}.get(module, module)


def _loop(session: Session) -> None:
    leaving = False  # Ctrl-C was pressed at the empty prompt just before
    while True:
        session.terminal.command("\n")
        draft, session.draft = session.draft, ""
        try:
            text = session.reader.read("› ", draft)
        except EOFError:
            return
        except KeyboardInterrupt:
            if leaving:
                return
            leaving = True
            session.note("Ctrl-C again or Ctrl-D leaves")
            continue
        leaving = False
        command = text.startswith("/") and not text.startswith("//") and not pictures.begins_with_file(text)
        if command:  # a file that is dropped on the terminal begins with a slash too
            if slash.run(session, text):
                return
        elif text.strip():
            session.ask(text.removeprefix("/") if text.startswith("//") else text)


def _leave(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)
