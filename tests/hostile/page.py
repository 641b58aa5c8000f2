"""docs/errors.md: the table with its sentences. `python -m tests.hostile.page` writes it anew; look at what changed."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.hostile.row import sentence, settled
from tests.hostile.table import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
HEAD = """\
# What you may see, and why

Every broken or hostile input that the tests try, {count} of them, with the error that Ingot answers it with: one
sentence, and after ` / hint:` the cure where there is one. DIR stands for the directory of the model, … for the words
of a library. In Python these are `ValueError`s, or `FileNotFoundError` for what is not there; on the command line they
follow `ingot: ` on stderr, with exit code 2. Search this page for the words that you saw; [trust.md](trust.md) tells
what is promised.

This page is written by `python -m tests.hostile.page` from `tests/hostile`, and a test holds every row to it.
"""
_ROW = re.compile(r"^\| (?P<name>.*?) \| (?P<says>.*) \|$")


def cell(text: str) -> str:
    """One line of Markdown that shows `text` as it is."""
    for old, new in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("\n", " / "), ("*", "\\*"), ("`", "\\`")):
        text = text.replace(old, new)
    return text.replace("_", "\\_").replace("[", "\\[")


def page(said: Mapping[tuple[str, str], str]) -> str:
    lines, section = [HEAD.format(count=len(said))], ""
    for (where, name), says in said.items():
        if where != section:
            section = where
            lines.append(f"\n## {section}\n\n| what was wrong | what Ingot says |\n|---|---|\n")
        lines.append(f"| {cell(name)} | {cell(says)} |\n")
    return "".join(lines)


def expected() -> dict[tuple[str, str], str]:
    """(section, name) -> sentence, both as cells of the page."""
    found, section = {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif (match := _ROW.match(line)) and match["name"] != "what was wrong":
            found[section, match["name"]] = match["says"]
    return found


def write() -> None:
    said = {}
    for key, row in table().items():
        with tempfile.TemporaryDirectory() as place:
            try:
                said[key] = settled(sentence(row, Path(place)))
            except BaseException as error:
                sys.exit(f"{key}: {type(error).__name__}: {error}")
    PAGE.write_text(page(said), encoding="utf-8")


if __name__ == "__main__":
    write()
