"""An agent's conversation of a wanted length, from made-up words: a system prompt and tools, then turns of two
requests. The user asks, the model thinks and calls a tool; the tool answers, the model answers the user."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Message = dict[str, Any]
# Tokens of each part, at 16k (taste: a coding agent's; a file or a page is what a tool gives back)
SYSTEM, QUESTION, RESULT, EDITED = 900, 250, 1350, 300
CALL = "read_pages"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name}: what it does, and when an agent should use it rather than another.",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind, "description": f"the {key}"} for key, kind in keys.items()},
                "required": list(keys),
            },
        },
    }
    for name, keys in (
        (CALL, {"path": "string", "pages": "integer"}),
        ("search_files", {"pattern": "string", "folder": "string"}),
        ("run_command", {"command": "string", "seconds": "integer"}),
    )
]


@dataclass(frozen=True)
class Trace:
    """What the client writes; `scale` 1 grows to about 16k tokens in eight turns. `count` gives a text's tokens."""

    count: Callable[[str], int]
    scale: float = 1.0

    def system(self) -> Message:
        """The instructions."""
        return {"role": "system", "content": self._text(0, SYSTEM)}

    def question(self, turn: int) -> Message:
        """What the user asks."""
        return {"role": "user", "content": self._text(100 + turn, QUESTION)}

    def call(self, turn: int) -> list[Message]:
        """The tool call that ends the model's first step."""
        arguments = json.dumps({"path": self._text(200 + turn, 12), "pages": turn})
        function = {"name": CALL, "arguments": arguments}
        return [{"id": f"call-{turn}", "type": "function", "function": function}]

    def result(self, turn: int) -> Message:
        """What the tool says."""
        return {"role": "tool", "tool_call_id": f"call-{turn}", "content": self._text(300 + turn, RESULT)}

    def shorter(self, turn: int) -> Message:
        """The same, cut by a client that saves room."""
        return {**self.result(turn), "content": self._text(300 + turn, EDITED) + " [cut]"}

    def words(self, seed: int, tokens: int) -> str:
        """What the model might have said, for a client that writes its messages itself."""
        return self._text(500 + seed, tokens)

    def _text(self, seed: int, tokens: int) -> str:
        """About so many tokens of words of small letters."""
        wanted = max(4, round(tokens * self.scale))
        rng = np.random.default_rng(seed)
        words: list[str] = []
        while (have := self.count(" ".join(words))) < wanted:
            for _ in range(max(1, (wanted - have) // 3)):
                words.append("".join(rng.choice(list("abcdefghijklmnop"), rng.integers(2, 8))))
        return " ".join(words)
