"""How much a text operation of a template can make of little, computed before it runs; None where it cannot grow.

Lengths are in characters. A list item counts ITEM_SIZE characters: an estimate of its memory, not of its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

ITEM_SIZE = 128
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_SPACES = " \t" + _LINE_ENDS
_NUMBER = re.compile(r"\d+")
# They make a list of a text's characters or words, or of what they are given.
_LISTING_FILTERS = frozenset(
    ["batch", "groupby", "list", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "slice", "sort",
     "title", "unique", "wordcount"]
)  # fmt: skip
_ESCAPING_FILTERS = frozenset(["e", "escape", "forceescape"])
# Python searches backwards, and compares with a set of characters, one by one: the product of both lengths.
_SLOW_METHODS = frozenset(["lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip", "trim"])
SLOW_LIMIT = 1_000_000_000  # character comparisons; about a second


def grown(name: str, value: Any, options: Sequence[Any], size_of: Any) -> int | None:
    """The size of what the method or filter `name` of `value` with `options` can make; `size_of` measures values."""
    if name in ("format", "format_map"):
        return formatted(str(value), size_of(list(options)))
    if name == "join":
        return _joined(value, options, size_of)
    if not isinstance(value, str):
        return None
    if name in _LISTING_FILTERS:
        return len(value) * ITEM_SIZE
    if name == "replace" and len(options) >= 2:
        old, new = str(options[0]), str(options[1])
        return len(value) + value.count(old) * len(new)
    if name == "indent":
        width = options[0] if options else 4
        return len(value) + lines(value) * max(ITEM_SIZE, width if isinstance(width, int) else len(str(width)))
    if name in ("split", "rsplit", "splitlines"):
        return len(value) + _pieces(name, value, options) * ITEM_SIZE
    if name in _ESCAPING_FILTERS:
        return len(value) + 5 * sum(value.count(character) for character in "&<>'\"")
    return None


def comparisons(name: str, value: Any, options: Sequence[Any]) -> int:
    """Character comparisons that a method can take."""
    if name not in _SLOW_METHODS or not isinstance(value, str):
        return 0
    return len(value) * max((len(option) for option in options if isinstance(option, str)), default=0)


def lines(text: str) -> int:
    """At how many ends of lines `text` is cut, and one."""
    return 1 + sum(text.count(end) for end in _LINE_ENDS)


def formatted(text: str, arguments: int) -> int:
    """What `text % arguments` and text.format(...) can make of arguments of that size together."""
    fields = max(text.count("{"), text.count("%"))  # each may stand for the longest of the arguments
    widths = sum(min(int(number[0][:9]), 10**9) for number in _NUMBER.finditer(text))
    return len(text) + fields * arguments + widths


def _joined(value: Any, options: Sequence[Any], size_of: Any) -> int:
    """separator.join(items) and items | join(separator)."""
    other = options[0] if options else ""
    if isinstance(value, str) and isinstance(other, str):  # one of them is taken for its characters
        return (len(value) + len(other)) * ITEM_SIZE + len(value) * len(other)
    separator, items = (value, other) if isinstance(value, str) else (str(other), value)
    return int(size_of(items)) + len(separator) * len(items)


def _pieces(name: str, value: str, options: Sequence[Any]) -> int:
    if name == "splitlines":
        return lines(value)
    separator = options[0] if options else None
    if isinstance(separator, str) and separator:
        return 1 + value.count(separator)
    return 1 + min(len(value) // 2, sum(value.count(space) for space in _SPACES))
