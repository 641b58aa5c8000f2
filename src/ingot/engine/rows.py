"""Rows of pools that are taken and given back: slots of recurrent states, pages of keys and values."""

from __future__ import annotations


class Rows:
    """`count` rows. Those that were used before are taken first: an array's memory is there once it was written."""

    def __init__(self, count: int) -> None:
        self.count, self.used = count, 0  # rows from `used` on were never taken
        self._free = list[int]()

    @property
    def free(self) -> int:
        """Rows that were used before and can be taken again."""
        return len(self._free)

    @property
    def left(self) -> int:
        """Rows that can be taken."""
        return self.free + self.count - self.used

    @property
    def taken(self) -> int:
        """Rows that somebody has."""
        return self.count - self.left

    def take(self) -> int:
        """A row; there must be one."""
        if self._free:
            return self._free.pop()
        if self.used == self.count:
            raise RuntimeError("no row is left")
        self.used += 1
        return self.used - 1

    def give(self, row: int) -> None:
        """It may be taken again."""
        self._free.append(row)
