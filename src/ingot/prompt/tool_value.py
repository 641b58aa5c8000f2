"""Where the value of a `<parameter=...>` ends. It may contain anything, the markup included, and nothing is escaped.

So a closing tag ends the value only if markup follows that can follow there. A value that contains opening tags itself
(a file about tool calls, say) is believed to end only where the whole call does, or where a parameter follows that is
still to come. docs/why/prompt-codec.md has the rules with their reasons, and what stays ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable

from ingot.prompt.lookahead import Lookahead, NeedMore

_OPENERS = ("<tool_call>", "<function=", "<parameter=")
_REPEATS = 4  # of a closing tag; more are text


class ValueReader:
    """Collects one value in `pieces`. `expects(name)` says whether a parameter of that name can follow."""

    def __init__(self, expects: Callable[[str], bool]) -> None:
        self.pieces: list[str] = []
        self._expects = expects
        self._started = False
        self._own_line = False  # the value begins on a line of its own, as the template writes it
        self._empty = True
        self._quotes = False  # opening tags were part of the value
        self._quoted_calls = 0  # that the value has opened itself and not yet closed

    def read(self, ahead: Lookahead) -> bool:
        """Reads up to the next `<` and over it; True when that ends the value, with the cursor behind its end."""
        if not self._started:
            self._started = True
            self._own_line = ahead.text.startswith("\n", ahead.at)
            ahead.at += self._own_line
            return False
        start, stop = ahead.at, ahead.find("<")
        newline = stop > start and ahead.text[stop - 1] == "\n"  # the one before a closing tag belongs to the tag
        self._take(ahead, stop - newline)
        if stop == len(ahead.text):
            if newline and not ahead.ended:
                raise NeedMore
            ahead.at = stop
            return False
        end = self._end(ahead, stop, newline or (stop == start and self._empty))
        if end is None:
            self._note_quoted(ahead, stop)
            self._take(ahead, stop + 1)
        else:
            ahead.at = end
        return end is not None

    def _note_quoted(self, ahead: Lookahead, at: int) -> None:
        opened = ahead.tag(at, "<tool_call>")
        called = opened is not None and ahead.tag(ahead.spaces(opened), "<function=") is not None  # else only mentioned
        closed = ahead.tag(at, "</tool_call>") is not None
        self._quotes = self._quotes or any(ahead.tag(at, tag) is not None for tag in _OPENERS)
        self._quoted_calls = max(self._quoted_calls + called - closed, 0)

    def _take(self, ahead: Lookahead, end: int) -> None:
        if end > ahead.at:
            self.pieces.append(ahead.text[ahead.at : end])
            self._empty = False
            ahead.at = end

    def _end(self, ahead: Lookahead, at: int, line_start: bool) -> int | None:
        """Where the markup goes on if the value ends at the `<` at `at`, else None."""
        after = ahead.tag(at, "</parameter>")
        if after is not None:
            return self._end_by_closer(ahead, after, line_start)
        after = ahead.tag(at, "</function>")
        if after is not None:
            at_tool_end = ahead.spaces(after)
            return at if self._call_ends(ahead, at_tool_end) or self._next_call(ahead, at_tool_end) else None
        if ahead.tag(at, "</tool_call>") is not None:
            return at if self._call_ends(ahead, at) else None
        if line_start and not self._quotes and self._parameter_follows(ahead, at):
            return at
        return None

    def _end_by_closer(self, ahead: Lookahead, after: int, line_start: bool) -> int | None:
        at = ahead.spaces(after)
        for _ in range(_REPEATS):
            repeated = ahead.tag(at, "</parameter>")
            if repeated is None:
                break
            if self._own_line and not line_start and at > after:
                return None  # `text</parameter>` in its line, the real closer in the next
            after, at = repeated, ahead.spaces(repeated)
        if not self._quotes:
            followers = ("<parameter=", "</function>", "</tool_call>", "<tool_call>", "<function=")
            return after if ahead.any_tag(at, *followers) else None
        if self._parameter_follows(ahead, at):
            return after
        closed = ahead.tag(at, "</function>")
        if closed is None:
            return after if ahead.ends(at) else None
        return after if self._call_ends(ahead, ahead.spaces(closed), or_next=self._quoted_calls == 0) else None

    def _parameter_follows(self, ahead: Lookahead, at: int) -> bool:
        start = ahead.tag(at, "<parameter=")
        found = ahead.name(start) if start is not None else None
        if found is None:
            return False
        name, end = found
        return not ahead.ends(end) and ahead.text[end] == ">" and self._expects(name)

    def _call_ends(self, ahead: Lookahead, at: int, or_next: bool = False) -> bool:
        """Whether the answer ends at `at`, past `</function>`, with `</tool_call>` or without; or the next call starts.
        For a value that quotes markup the latter counts only if it had its own closing tag and quotes no open call."""
        closed = ahead.tag(at, "</tool_call>")
        if closed is None:
            return ahead.ended and ahead.any_tag(at, "</tool_call>")
        at = ahead.spaces(closed)
        return ahead.ends(at) or ((or_next or not self._quotes) and ahead.tag(at, "<tool_call>") is not None)

    def _next_call(self, ahead: Lookahead, at: int) -> bool:
        return not self._quotes and ahead.tag(at, "<tool_call>") is not None
