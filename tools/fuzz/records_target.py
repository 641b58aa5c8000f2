"""Files of records (the prefix cache on disk): what is read is what the file holds, wherever it is damaged."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from ingot.store import records

IDENTITY = bytes(range(32))
_HEAD, _CHECK = 64, 4


def run_records(data: bytes, path: Path) -> None:
    """Every record lies inside the file behind the one before it, and its payload is the file's bytes or refused."""
    path.write_bytes(data)
    path.chmod(0o600)
    handle = records.open_records(path, IDENTITY)
    if handle is None:
        raise ValueError(f"{path}: is no file of records")
    try:
        scan = records.Scan(path, handle)
        end = records.LEAST_BYTES
        for record in scan.records:
            assert (
                end <= record.at - len(record.meta) - _HEAD < record.at + record.nbytes <= len(data)
                or not record.nbytes
            )
            payload = bytearray(record.nbytes)
            if records.read_payload(handle, record, [payload]):
                assert payload == data[record.at : record.at + record.nbytes]
            end = record.at + record.nbytes
        assert end <= scan.end <= len(data)
    finally:
        os.close(handle)
    records.verify(path)
    records.about(path)


def split_records(data: bytes) -> list[bytes]:
    """The file's header, and each record."""
    marks = [at for at in range(_HEAD, len(data), records.ALIGN) if data.startswith(b"\xf1record\n", at)]
    return [data[begin:end] for begin, end in zip([0, *marks], [*marks, len(data)], strict=True)]


def join_records(parts: Sequence[bytes]) -> bytes:
    """The parts, each with the checksum that makes it worth reading."""
    return b"".join(map(_sealed, parts))


def _sealed(part: bytes) -> bytes:
    if len(part) < _HEAD:
        return part
    meta = int.from_bytes(part[12:16], "little") if part.startswith(b"\xf1record\n") else 0
    checksum = zlib.crc32(part[_HEAD : _HEAD + meta], zlib.crc32(part[: _HEAD - _CHECK]))
    return part[: _HEAD - _CHECK] + checksum.to_bytes(4, "little") + part[_HEAD:]
