"""Pictures on the command line and in the chat: files that go into a user's turn."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

# Of files that are taken out of a line: what Ingot reads, and what it refuses with a hint how to convert it.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".heic", ".avif", ".tif", ".tiff")
TEXT_ONLY = "this model reads text only; it was made without a vision tower"
_SHELL_WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|\\.|[^\s'"\\])+""")
_QUOTED = re.compile(r"""(['"])([^'"]+)\1""")
_ESCAPED = re.compile(r"(?:\\.|[^\s\\])+")  # with an apostrophe that opens nothing, as in "what's in a.png"
_ENDS = "|".join(re.escape(suffix) for suffix in SUFFIXES)
_BARE = re.compile(rf"\S+?(?:{_ENDS})(?=[?!.,;:)]*(?:\s|$))", re.IGNORECASE)  # as in "what is in a.png?"
_WORD = re.compile(r"\S+")


def part(image: Any, max_pixels: int | None = None) -> dict[str, Any]:
    """The part of a message that shows `image`; a file by its whole name, for a saved talk is opened from anywhere."""
    shown = str(Path(image).absolute()) if isinstance(image, str) else image
    return {"type": "image", "image": shown} | ({} if max_pixels is None else {"max_pixels": max_pixels})


def begins_with_file(line: str) -> bool:
    """Whether the line begins with the name of a picture file that is there."""
    return any(start == 0 for start, _, _ in _names(line))


def dragged(line: str) -> tuple[str, list[str]]:
    """The line without the names of picture files that are there, and these: a terminal types the name of a file that
    is dropped on it, in quotes, with backslashes or as a file:// address."""
    found = list(_names(line))
    if not found:
        return line, []
    ends = [0, *(end for _, end, _ in found)]
    starts = [*(start for start, _, _ in found), len(line)]
    pieces = [line[end:start].strip(" ") for end, start in zip(ends, starts, strict=True)]
    return " ".join(piece for piece in pieces if piece).strip(), [name for _, _, name in found]


def file_names(text: str) -> list[str]:
    """What the argument of /image names: one file, or several that were dropped behind it."""
    path = os.path.expanduser(text)
    if not os.path.isfile(path):
        rest, names = dragged(text)
        if names and not rest:
            return names
    return [path]


def described(model: Any, path: str, max_pixels: int | None = None) -> str:
    """`photo.jpg: 1080 x 1920 pixels, 2,040 tokens`, before anything is encoded.

    ValueError for what is no picture, FileNotFoundError with a near miss for what is not there.
    """
    from ingot.prompt.media import open_image

    check_sees(model)
    check_is_there(path)
    pixels = open_image(path)
    try:
        picture = model.preprocessor.image(pixels, max_pixels)
    except ValueError as error:  # which names no file
        raise ValueError(f"{path}: {error}") from None
    return f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, {picture.tokens:,} tokens"


def check_sees(model: Any) -> None:
    """ValueError for a model that sees nothing."""
    if model.preprocessor is None:
        raise ValueError(TEXT_ONLY)


def check_is_there(path: str) -> None:
    """FileNotFoundError in one sentence, with a file beside it whose name is nearly the same."""
    file = Path(path)
    if os.path.isfile(path):  # False, where pathlib raises, for what cannot be a name
        return
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a directory; a picture file is needed")
    try:
        names = [entry.name for entry in file.parent.iterdir()]
    except OSError:
        names = []
    close = difflib.get_close_matches(file.name, names, n=1)
    raise FileNotFoundError(
        f"{path}: there is no such file" + (f"\nhint: {file.parent / close[0]} is there" if close else "")
    )


def shown(content: Any) -> str:
    """A message's text for the screen: pictures by their names, in brackets."""
    if isinstance(content, str) or content is None:
        return content or ""
    return " ".join(f"[{_name(part)}]" if "text" not in part else part["text"] for part in content)


def _name(part: Mapping[str, Any]) -> str:
    source = next((part[kind] for kind in ("image", "image_url", "video", "video_url") if kind in part), "picture")
    source = source.get("url", "picture") if isinstance(source, Mapping) else source
    if not isinstance(source, str):
        return "video"
    return source.partition(",")[0] if source.startswith("data:") else Path(source).name


def _names(line: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and name of every picture file in the line. A name begins a word."""
    if not any(suffix in line.lower() for suffix in SUFFIXES):
        return
    at = 0
    while word := _WORD.search(line, at):
        found = _name_at(line, word.start())
        if found:
            yield word.start(), *found
        at = found[0] if found else word.end()


def _name_at(line: str, start: int) -> tuple[int, str] | None:
    """End and name of the picture file whose name begins at `start`, however it is written."""
    for pattern, read in ((_SHELL_WORD, _unescaped), (_QUOTED, _inside), (_ESCAPED, _unbackslashed), (_BARE, str)):
        match = pattern.match(line, start)
        if match is None:
            continue
        name = read(match[0])
        name = unquote(name.removeprefix("file://")) if name.startswith("file://") else name
        if name.lower().endswith(SUFFIXES) and os.path.isfile(name):
            return match.end(), name
    return None


def _unescaped(word: str) -> str:
    """As a shell reads it: 'a b' "c d" e\\ f."""
    pieces = re.findall(r"""'([^']*)'|"([^"]*)"|\\(.)|([^'"\\])""", word, re.DOTALL)
    return "".join("".join(piece) for piece in pieces)


def _unbackslashed(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word)


def _inside(word: str) -> str:
    return word[1:-1]
