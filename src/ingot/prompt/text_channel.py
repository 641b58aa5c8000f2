"""One run of text in an answer (reasoning or content): whitespace held back at its edges, code fences followed."""

from __future__ import annotations

import re

# A Markdown fence: three or more backticks or tildes at the start of a line. Lists indent them: any indent counts.
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})(.*)", re.DOTALL)
_LINE_LIMIT = 200  # characters of a line that are looked at: a fence and its language fit well


class TextChannel:
    """Passes text on except whitespace at its end, which may turn out to stand before a tool call or `</think>`."""

    def __init__(self, strip_start: bool) -> None:
        """strip_start: leave out whitespace before the first other character."""
        self.strip_start = strip_start
        self._given: list[str] = []
        self._held: list[str] = []
        self._fence = ""
        self._line = ""

    @property
    def text(self) -> str:
        """All text given out so far."""
        return "".join(self._given)

    @property
    def empty(self) -> bool:
        """Whether nothing has been given out yet: at most whitespace came."""
        return not self._given

    @property
    def in_fence(self) -> bool:
        """Whether the next character is inside a Markdown code block."""
        return bool(self._fence or _after_line("", self._line))

    @property
    def at_line_start(self) -> bool:
        """Whether only whitespace stands before the next character in its line."""
        return not self._line.strip()

    def take(self, text: str) -> str:
        """Takes the next characters; returns those that can be given out now."""
        self._follow_lines(text)
        body = text.rstrip()
        if not body:
            self._held.append(text)
            return ""
        released = body.lstrip() if self.strip_start and self.empty else "".join(self._held) + body
        self._given.append(released)
        self._held = [text[len(body) :]]
        return released

    def drop_held(self) -> None:
        """Forgets the whitespace held back: what follows is no text of this channel."""
        self._held = []
        self._line = ""

    def release_held(self) -> str:
        """Gives out the whitespace held back: the text ends here."""
        held = "" if self.strip_start and self.empty else "".join(self._held)
        self._held = []
        if held:
            self._given.append(held)
        return held

    def _follow_lines(self, text: str) -> None:
        first, *rest = text.split("\n")
        self._line += first[: _LINE_LIMIT - len(self._line)]
        for line in rest:
            self._fence = _after_line(self._fence, self._line)
            self._line = line[:_LINE_LIMIT]


def _after_line(fence: str, line: str) -> str:
    """The fence that is open after `line`, given the one open before it; "" for none."""
    match = _FENCE.match(line)
    if match is None:
        return fence
    run, rest = match.groups()
    if not fence:
        return "" if run[0] in rest else run
    closes = run[0] == fence[0] and len(run) >= len(fence) and not rest.strip()
    return "" if closes else fence
