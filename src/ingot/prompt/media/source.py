"""Where a picture or video comes from: a path, bytes, a `data:` URL, and an address where that is allowed."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ingot.pixels import limits

AllowUrls = bool | Literal["private"]


@dataclass(frozen=True)
class Kind:
    """What is wanted: its name, how many bytes a file and one held in memory may have, Content-Types of servers, and
    the one that is named as an example."""

    name: str
    file_bytes: int
    held_bytes: int
    types: tuple[str, ...]
    example: str

    def __str__(self) -> str:
        return self.name


UNTYPED = ("application/octet-stream", "binary/octet-stream")  # of servers that do not look
IMAGE = Kind("image", limits.IMAGE_BYTES, limits.IMAGE_BYTES, ("image/", *UNTYPED), "image/png")
VIDEO = Kind("video", limits.VIDEO_BYTES, limits.VIDEO_BYTES_HELD, ("video/", *UNTYPED), "video/mp4")


def is_address(source: Any) -> bool:
    """Whether it is a text like https://... (data: URLs are not meant)."""
    return isinstance(source, str) and "://" in source[:10]


def taken(source: Any, kind: Kind, allow_urls: AllowUrls = False) -> tuple[bytes | Path, str] | None:
    """(the bytes or a file that is there, what errors call it); None when the source is of none of these kinds.

    Raises ValueError in one sentence, FileNotFoundError for a path that is not there.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _within(bytes(source), kind, f"the {kind}"), f"the {kind}"
    if isinstance(source, str) and source.startswith("data:"):
        return _from_data_url(source, kind), f"the {kind} of the data: URL"
    if is_address(source):
        return _fetched(source, kind, allow_urls), shown(source)
    if isinstance(source, str | os.PathLike):
        return _file(Path(source), kind), named(Path(source))
    return None


def _within(data: bytes, kind: Kind, name: str) -> bytes:
    if len(data) > kind.held_bytes:
        raise ValueError(f"{name} has {len(data):,} bytes; {kind.held_bytes >> 20} MB are the most")
    return data


def _fetched(url: str, kind: Kind, allow_urls: AllowUrls) -> bytes:
    if not allow_urls:
        raise ValueError(
            f"the {kind} {shown(url)} is an address; only files and data: URLs are read\n"
            "hint: allow_urls=True, on the command line --allow-urls, fetches it"
        )
    from ingot.prompt.media.fetch import fetch

    return fetch(url, kind.held_bytes, kind.types, private=allow_urls == "private")


def _from_data_url(url: str, kind: Kind) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError(f"the data: URL {shown(url)} is not of the form data:{kind.example};base64,...")
    if len(body) > kind.held_bytes * 4 // 3 + 4:
        most = kind.held_bytes >> 20
        raise ValueError(f"the data: URL has {len(body):,} characters; {most} MB of {kind} are the most")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: characters beyond ASCII
        raise ValueError(f"the data: URL {shown(url)} is not valid base64: {error}") from None


def _file(path: Path, kind: Kind) -> Path:
    if "\0" in str(path):
        raise ValueError(f"the {kind} {shown(str(path))} cannot be a path; give the content of a file as bytes")
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{named(path)}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"the {kind} {named(path)} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for, a device has no end
        raise ValueError(f"{path} is not a file")
    if about.st_size > kind.file_bytes:
        raise ValueError(f"{path} has {about.st_size:,} bytes; {kind.file_bytes >> 20:,} MB are the most")
    return path


def content(path: Path, name: str) -> bytes:
    """The bytes of a file that is there."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None


def named(path: Path) -> str:
    """A path as an error shows it: people give the content of a file in its place."""
    text = str(path)
    return text if len(text) <= 255 and text.isprintable() else shown(text)


def shown(text: str) -> str:
    """A text for an error, its middle left out."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
