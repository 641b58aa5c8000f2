"""Pictures and videos on the command line and in the chat: files that go into a user's turn."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

# Of files that are taken out of a line: what Ingot reads, and what it refuses with a hint how to convert it.
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".heic", ".avif", ".tif", ".tiff", *VIDEOS)
_SHELL_WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|\\.|[^\s'"\\])+""")
_QUOTED = re.compile(r"""(['"])([^'"]+)\1""")
_ESCAPED = re.compile(r"(?:\\.|[^\s\\])+")  # with an apostrophe that opens nothing, as in "what's in a.png"
_ENDS = "|".join(re.escape(suffix) for suffix in SUFFIXES)
_BARE = re.compile(rf"\S+?(?:{_ENDS})(?=[?!.,;:)]*(?:\s|$))", re.IGNORECASE)  # as in "what is in a.png?"
_WORD = re.compile(r"\S+")


def part(source: Any, kind: str = "image", max_pixels: int | None = None) -> dict[str, Any]:
    """The part of a message that shows a picture or video; a file by its whole name, for a saved talk is opened from
    anywhere."""
    shown = str(Path(source).absolute()) if isinstance(source, str) and not is_address(source) else source
    return {"type": kind, kind: shown} | ({} if max_pixels is None else {"max_pixels": max_pixels})


def kind_of(path: str) -> str:
    """ "video" or "image", by the name of a file."""
    return "video" if path.lower().endswith(VIDEOS) else "image"


def is_address(path: str) -> bool:
    """Whether a file is named by an http(s) address."""
    return path.startswith(("http://", "https://"))


def draw(place: str, picture: Any, answer: str) -> None:
    """Write the picture with the boxes and points of the answer, and say how many there are."""
    from ingot.cli.failure import say
    from ingot.grounding import draw as drawn
    from ingot.grounding import parse

    height, width = picture.shape[:2]
    found = parse(answer, (width, height))
    if not found:
        say(f"warning: the answer holds no boxes and no points; {place} was not written")
        return
    drawn(picture, found).save(place)
    say(f"{len(found)} drawn on {place}")


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


def described(model: Any, kind: str, path: str, max_pixels: int | None = None, pixels: Any = None) -> str:
    """`photo.jpg: 1080 x 1920 pixels, 2,040 tokens`, before anything is encoded. `pixels`: the picture, where it was
    decoded.

    ValueError for what is no picture, FileNotFoundError with a near miss for what is not there.
    """
    from ingot.prompt.media import glance, open_image

    check_sees(model)
    if not is_address(path):
        check_is_there(path, kind)
    if kind == "image" and not hasattr(pixels, "shape"):
        pixels = open_image(path, model.allow_urls)
    try:
        if kind == "video":
            seen = glance(path, model.preprocessor, max_pixels=max_pixels, allow_urls=model.allow_urls)
            size, length = f"{seen.width} x {seen.height} pixels", f"{seen.seconds:.1f} seconds"
            return f"{path}: {size}, {length}, of which {seen.frames} frames are seen, {seen.tokens:,} tokens"
        picture = model.preprocessor.image(pixels, max_pixels)
    except ValueError as error:  # which may name no file
        raise ValueError(str(error) if str(error).startswith(path) else f"{path}: {error}") from None
    return f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, {picture.tokens:,} tokens"


def check_sees(model: Any) -> None:
    """ValueError for a model that sees nothing."""
    from ingot.prompt.media import TEXT_ONLY

    if model.preprocessor is None:
        raise ValueError(TEXT_ONLY)


def check_is_there(path: str, kind: str = "image") -> None:
    """FileNotFoundError in one sentence, with a file beside it whose name is nearly the same."""
    file = Path(path)
    if os.path.isfile(path):  # False, where pathlib raises, for what cannot be a name
        return
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a directory; a {'video' if kind == 'video' else 'picture'} file is needed")
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
