"""Looking ahead in a growing text: a question is answered only when no further character can change the answer."""

from __future__ import annotations

_SPACE_LIMIT = 256  # between two tags; models write one newline. Bounds what is held back and looked at again
_NAME_LIMIT = 256  # of a function or parameter


class NeedMore(Exception):  # noqa: N818 - no error: the text ends where the answer is
    """The answer depends on characters that have not come yet."""


class Lookahead:
    """A growing text with a cursor `at`: what stands before it is done with. `ended` says that no more will come.

    Every question raises NeedMore when more text could change its answer and the text has not ended.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False

    def append(self, text: str) -> None:
        """Adds `text` at the end and forgets what stands before the cursor."""
        self.text = self.text[self.at :] + text
        self.at = 0

    @property
    def remains(self) -> bool:
        """Whether there is text at the cursor."""
        return self.at < len(self.text)

    def find(self, character: str) -> int:
        """The position of the next `character` from the cursor on, or the end of the text."""
        found = self.text.find(character, self.at)
        return len(self.text) if found < 0 else found

    def tag(self, at: int, tag: str) -> int | None:
        """The position after `tag` if the text has it at `at`, else None."""
        if self.text.startswith(tag, at):
            return at + len(tag)
        if self._breaks_off(at, tag):
            self._more()
        return None

    def any_tag(self, at: int, *tags: str) -> bool:
        """Whether one of `tags` stands at `at`, or the ended text breaks off before or inside one of them."""
        if any(self.text.startswith(tag, at) for tag in tags):
            return True
        if any(self._breaks_off(at, tag) for tag in tags):
            self._more()
            return True
        return False

    def spaces(self, at: int) -> int:
        """The position after the ASCII whitespace at `at`; stops after _SPACE_LIMIT characters."""
        for end in range(at, at + _SPACE_LIMIT):
            if end >= len(self.text):
                self._more()
                return end
            if self.text[end] not in " \t\r\n":
                return end
        return at + _SPACE_LIMIT

    def name(self, at: int) -> tuple[str, int] | None:
        """The name at `at`, and the position of what ends it: `>`, `<`, a line break, or the end of the ended text.

        None when there is no name or it is too long.
        """
        for end in range(at, at + _NAME_LIMIT):
            if end >= len(self.text):
                self._more()
            if end >= len(self.text) or self.text[end] in "<>\r\n":
                name = self.text[at:end].strip()
                return (name, end) if name else None
        return None

    def ends(self, at: int) -> bool:
        """Whether the text ends at `at`."""
        if at >= len(self.text):
            self._more()
            return True
        return False

    def _breaks_off(self, at: int, tag: str) -> bool:
        rest = self.text[at : at + len(tag)]
        return len(rest) < len(tag) and tag.startswith(rest)

    def _more(self) -> None:
        if not self.ended:
            raise NeedMore
