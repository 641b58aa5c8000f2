"""Which records there are, by name and by group."""

from __future__ import annotations

from collections.abc import Iterator

from ingot.store.records import Record


class RecordIndex:
    """Records by key, the last that was added of each; `nbytes` of their payloads. A group of zeros is none."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._records: dict[bytes, Record] = {}
        self._groups: dict[bytes, dict[bytes, Record]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __contains__(self, key: bytes) -> bool:
        return key in self._records

    def get(self, key: bytes) -> Record | None:
        """The record of that name."""
        return self._records.get(key)

    def group(self, group: bytes) -> list[Record]:
        """The records of a group, in the order in which they came."""
        return list(self._groups.get(group, {}).values())

    def add(self, record: Record) -> None:
        """In place of the one with its name, if there is one."""
        known = self._records.get(record.key)
        if known is not None:
            self.remove(known)
        self._records[record.key] = record
        self.nbytes += record.nbytes
        if any(record.group):
            self._groups.setdefault(record.group, {})[record.key] = record

    def remove(self, record: Record) -> None:
        """One that is here."""
        del self._records[record.key]
        self.nbytes -= record.nbytes
        members = self._groups.get(record.group)
        if members is not None:
            del members[record.key]
            if not members:
                del self._groups[record.group]

    def clear(self) -> None:
        """All of them."""
        self.nbytes = 0
        self._records.clear()
        self._groups.clear()
