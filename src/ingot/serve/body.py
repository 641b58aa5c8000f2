"""A request's bytes to a JSON object, bounded before they are read and before they are parsed."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ingot.serve.errors import ApiError, bad
from ingot.serve.limits import most
from ingot.spec.text_file import parse_json

# A text to its end, or to that of the body: where an unended one did not match, each \" in it would be tried again.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


class GoneError(Exception):
    """The client has left."""


async def read_body(request: Request) -> bytes:
    """All bytes of the request; ApiError 413 for too many, 408 where they do not come, GoneError where the client
    leaves."""
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > most("body"):
        raise _too_large()
    data = bytearray()
    try:
        async with asyncio.timeout(most("body time")):
            async for piece in request.stream():
                data += piece
                if len(data) > most("body"):
                    raise _too_large()
    except TimeoutError:
        raise ApiError(408, f"the request did not arrive within {most('body time')} seconds") from None
    except ClientDisconnect:
        raise GoneError from None
    return bytes(data)


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in a body; ApiError 400 with the reason."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise bad(f"the body is not UTF-8 (byte {error.start})") from None
    _check_structure(data)
    try:
        value = parse_json(text)
    except ValueError as error:
        raise bad(f"the body {error}") from None
    if not isinstance(value, dict):
        raise bad(f"the body is a JSON {type(value).__name__}; it must be an object")
    return value


def _too_large() -> ApiError:
    return ApiError(413, f"the body has more than {most('body'):,} bytes, which are the most", code="request_too_large")


def _check_structure(data: bytes) -> None:
    """Depth and number of values, counted before Python's objects, of 60 bytes and more each, are made."""
    bare = _TEXT.sub(b"", data)
    if sum(map(bare.count, (b",", b"[", b"{"))) > most("values"):
        raise bad(f"the body holds more than {most('values'):,} values, which are the most")
    depth = 0
    for mark in re.findall(rb"[\[\]{}]", bare):
        depth += 1 if mark in b"[{" else -1
        if depth > most("depth"):
            raise bad(f"the body nests more than {most('depth')} levels deep")
