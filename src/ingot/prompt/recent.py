"""Arrays of ids by what they stand for: those that were used last, as many as some bytes of memory hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

ENTRY_BYTES = 400  # of an entry beside its key's and its array's contents (measured, CPython 3.11: 300 to 375)
Key = TypeVar("Key", bound=Hashable)


class Recent(Generic[Key]):
    """Holds `most_bytes` in all; `key_bytes` tells what a key holds. For several threads."""

    def __init__(self, most_bytes: int, key_bytes: Callable[[Key], int]) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._key_bytes = key_bytes
        self._known: OrderedDict[Key, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._known)

    def items(self) -> list[tuple[Key, np.ndarray]]:
        """All of them, the one used last at the end."""
        with self._lock:
            return list(self._known.items())

    def get(self, key: Key) -> np.ndarray | None:
        """The array of a key, which is used by this."""
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
            return known

    def put(self, key: Key, ids: np.ndarray, newest: bool = True) -> None:
        """Hold it, in place of what was there if it is the `newest`; not what is larger than all that may be held."""
        with self._lock:
            known = self._known.get(key)
            if (known is not None and not newest) or self._size(key, ids) > self.most_bytes:
                return
            if known is not None:
                self.bytes -= self._size(key, self._known.pop(key))
            self._known[key] = ids
            self.bytes += self._size(key, ids)
            while self.bytes > self.most_bytes:
                self.bytes -= self._size(*self._known.popitem(last=False))

    def _size(self, key: Key, ids: np.ndarray) -> int:
        return ENTRY_BYTES + self._key_bytes(key) + ids.nbytes
