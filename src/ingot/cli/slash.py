"""The slash commands of the interactive chat. Each takes the session and the rest of its line."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli import pictures, sampling
from ingot.cli.terminal import harmless

if TYPE_CHECKING:
    from ingot.cli.interactive import Session

_SWITCH = {"on": True, "off": False}


def run(session: Session, line: str) -> bool:
    """Run `/name rest`; True when the chat shall end. Errors are told, never raised."""
    name, _, rest = line[1:].partition(" ")
    if name in ("exit", "quit"):
        return True
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        session.note(f"there is no /{name}; {f'did you mean /{close[0]}?' if close else '/help lists the commands'}")
        return False
    try:
        COMMANDS[name][0](session, rest.strip())
    except ValueError as error:
        session.note(str(error))
    except OSError as error:
        session.note(f"{error.filename}: {error.strerror}" if error.errno else str(error))
    return False


def _help(session: Session, rest: str) -> None:
    heads = {name: f"/{name} {argument}".rstrip() for name, (_, argument, _) in COMMANDS.items()}
    room = max(map(len, heads.values()))
    rows = [f"  {heads[name]:<{room}}  {what}" for name, (_, _, what) in COMMANDS.items()]
    session.terminal.command("\n".join(rows) + "\n")
    session.note("  A message that begins with a slash: //like this")


def _new(session: Session, rest: str) -> None:
    session.conversation.messages.clear()
    session.images.clear()
    session.last = None
    session.note("a new conversation" + (" with the same system message" if session.conversation.system else ""))


def _system(session: Session, rest: str) -> None:
    if rest:
        session.conversation.system = None if rest == "none" else rest
    system = session.conversation.system
    session.note(f"system: {system}" if system else "no system message")


def _think(session: Session, rest: str) -> None:
    if rest == "auto":
        session.conversation.thinking = None
    elif rest:
        session.conversation.thinking = _switched("think", rest, "on, off or auto")
    state = {None: "auto (as the model was made)", True: "on", False: "off"}[session.conversation.thinking]
    session.note(f"thinking: {state}")


def _fold(session: Session, rest: str) -> None:
    session.fold = _switched("fold", rest, "on or off") if rest else not session.fold
    session.note(f"thinking is {'folded' if session.fold else 'left on the screen'} when it is done")


def _thoughts(session: Session, rest: str) -> None:
    text = session.last.reasoning.strip() if session.last else ""
    session.note(text or "the last answer came without thinking")


def _regen(session: Session, rest: str) -> None:
    message = session.conversation.take_back()
    if message is None:
        raise ValueError("there is nothing to answer yet")
    session.conversation.messages.append(message)
    session.answer_or_take_back()


def _edit(session: Session, rest: str) -> None:
    if not session.edit():
        raise ValueError("there is nothing to edit yet")
    _tell_images(session)


def _save(session: Session, rest: str) -> None:
    path = _path(rest, "save")
    session.conversation.save(path, overwrite=path in session.files)
    session.files.add(path)
    session.note(f"{len(session.conversation.for_model())} messages in {path}")


def _load(session: Session, rest: str) -> None:
    path = _path(rest, "load")
    session.conversation.load(path)
    session.files.add(path)
    session.last = None
    messages = session.conversation.messages
    session.note(f"{len(session.conversation.for_model())} messages from {path}")
    for message in messages[-2:]:
        if text := pictures.shown(message.get("content")).strip():
            mark = "› " if message["role"] == "user" else ""
            session.terminal.write(f"{mark}{text}\n")
    if messages and messages[-1]["role"] != "assistant":
        session.note("/regen answers the last message")


def _params(session: Session, rest: str) -> None:
    chosen = session.conversation.sampling
    session.note((sampling.described(chosen) or "nothing is set") + " · everything else: the model's own values")
    session.note("there are " + ", ".join(sampling.PARAMETERS))


def _set(session: Session, rest: str) -> None:
    name, _, value = rest.replace("=", " ", 1).partition(" ")
    if not name:
        raise ValueError("/set takes a name and a value, as in /set temperature 0.3; without a value the model's own")
    if not value.strip():
        session.conversation.sampling.pop(sampling.known(name), None)
        session.note(f"{name}: the model's own value")
        return
    key, parsed = sampling.parse(name, value.strip())
    session.conversation.sampling[key] = parsed
    session.note(sampling.described({key: parsed}))


def _image(session: Session, rest: str) -> None:
    """Pictures for the next turn; none leaves out those that wait for it."""
    if rest == "none":
        session.images.clear()
    elif rest:
        session.show([("image", name) for name in pictures.file_names(rest)])
        return
    _tell_images(session, "no picture waits for the next message")


def _video(session: Session, rest: str) -> None:
    """Videos for the next turn."""
    if not rest:
        raise ValueError("/video takes a file name, as in /video clip.mp4; /image none leaves it out")
    session.show([("video", name) for name in pictures.file_names(rest)])


def _tell_images(session: Session, nothing: str = "") -> None:
    if told := pictures.shown(session.images) or nothing:
        session.note(told + (" with the next message" if session.images else ""))


def _exit(session: Session, rest: str) -> None:
    """For the table; `run` knows it."""


def _switched(name: str, text: str, rule: str) -> bool:
    if text not in _SWITCH:
        raise ValueError(f"/{name} is given {harmless(text)!r}; it takes {rule}")
    return _SWITCH[text]


def _path(text: str, command: str) -> Path:
    if not text:
        raise ValueError(f"/{command} takes a file name, as in /{command} talk.json")
    return Path(text).expanduser()


# name -> (function, its argument, what /help says)
COMMANDS: dict[str, tuple[Callable[[Session, str], None], str, str]] = {
    "help": (_help, "", "this list"),
    "new": (_new, "", "forget the conversation and begin again"),
    "system": (_system, "TEXT", "set the system message; none removes it"),
    "think": (_think, "on|off|auto", "reason before answering, or not"),
    "fold": (_fold, "on|off", "fold the reasoning to one line when it is done"),
    "thoughts": (_thoughts, "", "show the reasoning of the last answer"),
    "regen": (_regen, "", "answer the last message again"),
    "edit": (_edit, "", "take back the last message and edit it"),
    "image": (_image, "FILE", "show a picture with the next message, as a dropped file is; or none"),
    "video": (_video, "FILE", "show a video with the next message, as a dropped file is"),
    "save": (_save, "FILE", "write the messages as JSON"),
    "load": (_load, "FILE", "go on with saved messages"),
    "params": (_params, "", "show the sampling parameters that are set"),
    "set": (_set, "NAME VALUE", "set one, as in /set temperature 0.3"),
    "exit": (_exit, "", "leave"),
}
