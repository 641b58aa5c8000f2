"""PNG taken apart into its chunks and put together with their lengths and checksums; other images stay whole."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

_START = b"\x89PNG\r\n\x1a\n"


def split_chunks(data: bytes) -> list[bytes]:
    """Start, then every chunk as its type and content."""
    if not data.startswith(_START):
        return [data]
    parts, at = [_START], len(_START)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at + 4 : end - 4])
        at = end
    return parts


def join_chunks(parts: Sequence[bytes]) -> bytes:
    """The file again; one that lost its start is joined as it is."""
    if not parts or parts[0] != _START:
        return b"".join(parts)
    chunks = [len(part[4:]).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big") for part in parts[1:]]
    return _START + b"".join(chunks)
