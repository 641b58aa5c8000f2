"""Chat templates: whatever one says, it reaches nothing outside, and it ends soon, with a bounded text."""

from __future__ import annotations

import json
import sys
import time
from copy import deepcopy
from functools import partial
from typing import Any
from unittest.mock import patch

from ingot.prompt import ChatTemplate, render
from ingot.prompt.sandbox import Sandbox
from tools.fuzz.target import sections

SECRET = "4f1d0c9a-only-python-sees-this"  # in this module's globals, which no template may reach
SIZE, STEPS, SECONDS = 500_000, 5_000, 0.5
_FORBIDDEN = ("open", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "exec", "compile", "pty.", "pathlib.")
_MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "content": "5"},
    {"role": "user", "content": "and?"},
]  # fmt: skip
_watching = False
_seen: list[str] = []


def _audit(event: str, _: Any) -> None:
    if _watching and event.startswith(_FORBIDDEN) and not _in_import():
        _seen.append(event)


def _in_import() -> bool:
    """A library that imports a part of itself when it is first needed opens files too."""
    frame = sys._getframe()
    while frame is not None:
        if "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class _Watched(Sandbox):
    """With smaller bounds; notes what the interpreter is asked for while a template runs."""

    def begin(self) -> None:
        global _watching
        super().begin()
        _seen.clear()
        _watching = True


def run_template(data: bytes) -> None:
    """`@template` is rendered with `@messages`, or with a short conversation where these are none."""
    given = sections(data)
    source = given.get("template", data).decode("utf-8", "replace")
    messages = _messages(given.get("messages"))
    before, started = deepcopy(messages), time.thread_time()
    try:
        with patch("ingot.prompt.sandbox.Sandbox", partial(_Watched, seconds=SECONDS, steps=STEPS, size=SIZE)):
            text = render(messages, template=ChatTemplate(source, "template"))
        assert len(text) <= SIZE, f"the prompt has {len(text)} characters"
        assert SECRET not in text, "a template has read a module's globals"
    finally:
        _stop_watching()
        assert messages == before, "a template has changed the messages"
        seconds = time.thread_time() - started
        assert seconds < 6 * SECONDS, f"it takes {seconds:.1f} s"
    assert not _seen, f"a template has reached {_seen[0]}"


def _messages(given: bytes | None) -> list[dict[str, Any]]:
    try:
        messages = json.loads(given) if given else None
    except ValueError:
        messages = None
    return messages if isinstance(messages, list) else deepcopy(_MESSAGES)


def _stop_watching() -> None:
    global _watching
    _watching = False


sys.addaudithook(_audit)
