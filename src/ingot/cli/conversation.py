"""A conversation as it goes to the model and to a file: messages, system text, thinking, sampling."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingot.cli.failure import UsageError

Message = dict[str, Any]


@dataclass
class Conversation:
    """What was said. `thinking` None leaves the choice to the model's template; `sampling` has only what was set."""

    messages: list[Message] = field(default_factory=list)
    system: str | None = None
    thinking: bool | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    max_pixels: int | None = None  # at which pictures are seen at most

    def for_model(self) -> list[Message]:
        """All messages, the system text first."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages]

    def say(self, text: str, images: Sequence[Message] = ()) -> None:
        """Add a user's turn: the parts `images`, then the text."""
        parts = [*images, {"type": "text", "text": text}] if text else [*images]
        self.messages.append({"role": "user", "content": parts if images else text})

    def take_back(self) -> Message | None:
        """Remove the last user's turn and everything after it; return it, None when there is none."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index]["role"] == "user":
                message = self.messages[index]
                del self.messages[index:]
                return message
        return None

    def save(self, path: Path, overwrite: bool) -> None:
        """Write the messages as JSON, whole or not at all; FileExistsError unless `overwrite`."""
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; give another name")
        draft = path.with_name(path.name + ".part")
        draft.write_text(json.dumps(self.for_model(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        os.replace(draft, path)

    def load(self, path: Path) -> None:
        """Replace the messages (and the system text) by those of a file that `save` or another program wrote.

        Takes a JSON list of OpenAI messages, or an object with `messages`; ValueError naming the file and the message.
        """
        from ingot.prompt import normalise_messages

        value = read_json(path)
        messages: Any = value.get("messages") if isinstance(value, dict) else value
        try:
            normal = normalise_messages(messages)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if any(message["role"] == "system" for message in normal[1:]):
            raise ValueError(f"{path}: only the first message may have the role 'system'")
        first = normal[0]["role"] == "system"
        if first and not isinstance(normal[0]["content"], str):
            raise ValueError(f"{path}: messages[0] is a system message with pictures; it may hold text alone")
        self.system = str(normal[0]["content"]) if first else None
        self.messages = [dict(message) for message in messages][1 if first else 0 :]


def read_tools(path: str) -> list[dict[str, Any]]:
    """The tool definitions in a JSON file; UsageError naming the file and the rule."""
    from ingot.prompt import normalise_tools

    try:
        tools = normalise_tools(read_json(Path(path).expanduser()))
    except ValueError as error:
        raise UsageError(f"--tools {path}: {error}") from None
    if not tools:
        raise UsageError(f"--tools {path}: holds no tools; it must be a JSON list of function definitions")
    return tools


def read_json(path: Path) -> Any:
    """The JSON value in a file; ValueError or OSError naming it."""
    try:
        return json.loads(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def taken_apart(message: Message) -> tuple[str, list[Message]]:
    """The text of a user's turn and its other parts, as `say` takes them."""
    content = message["content"]
    if isinstance(content, str):
        return content, []
    return "".join(part.get("text", "") for part in content), [dict(part) for part in content if "text" not in part]
