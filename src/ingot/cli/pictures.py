"""Pictures on the command line and in the chat: files that go into a user's turn."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def content(text: str, images: Sequence[str], max_pixels: int | None = None) -> Any:
    """The content of a user's turn: the pictures, then the text."""
    if not images:
        return text
    extra = {} if max_pixels is None else {"max_pixels": max_pixels}
    parts: list[dict[str, Any]] = [{"type": "image", "image": image, **extra} for image in images]
    return [*parts, {"type": "text", "text": text}] if text else parts


def dragged(line: str) -> tuple[str, list[str]]:
    """The line without the names of picture files that are there, and these: a terminal types the name of a file that
    is dropped on it, in quotes or with backslashes."""
    if not any(suffix in line.lower() for suffix in SUFFIXES):
        return line, []
    try:
        words = shlex.split(line)
    except ValueError:  # an apostrophe, as in "what's in a.png"
        words = line.split()
    found = [word for word in words if word.lower().endswith(SUFFIXES) and _is_file(word)]
    for word in found:
        for written in (f"'{word}'", f'"{word}"', word.replace(" ", "\\ "), word):
            if written in line:
                line = line.replace(written, "", 1)
                break
    return " ".join(line.split()) if found else line, [word.removeprefix("file://") for word in found]


def described(model: Any, path: str, max_pixels: int | None = None) -> str:
    """`photo.jpg: 1080 x 1920 pixels, 2,040 tokens`, before anything is encoded; ValueError for what is no picture."""
    from ingot.prompt.media import open_image

    if model.preprocessor is None:
        raise ValueError("this model reads text only; it was made without a vision tower")
    pixels = open_image(path)
    picture = model.preprocessor.image(pixels, max_pixels)
    return f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, {picture.tokens:,} tokens"


def close_name(path: Path) -> str:
    """A hint at a file beside `path` whose name is nearly the same, or nothing."""
    folder = path.parent if path.parent.is_dir() else None
    close = difflib.get_close_matches(path.name, [f.name for f in folder.iterdir()], n=1) if folder else []
    return f"\nhint: {folder / close[0]} is there" if folder and close else ""


def _is_file(word: str) -> bool:
    try:
        return Path(word.removeprefix("file://")).is_file()
    except OSError:  # a name too long to be one
        return False
