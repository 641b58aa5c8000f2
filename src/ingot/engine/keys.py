"""What the state after a token depends on beside the model: the tokens up to it, their positions and their pictures.

Two prompts may share a state exactly where their keys are equal row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from ingot.engine.eyes import Visual

COLUMNS = 8  # the id, three positions, 128 bits of a picture's digest
DIGEST_BYTES = 16


def keys_of(ids: np.ndarray, position: np.ndarray | None, visuals: Sequence[Visual] = ()) -> np.ndarray:
    """int32 [T, 8], a row for each of T tokens; `position` [3,T] None: text's. A picture's tokens have their number in
    the picture in place of their id, which is the same for all, and its digest."""
    keys = np.zeros((len(ids), COLUMNS), np.int32)
    keys[:, 0] = ids
    keys[:, 1:4] = np.arange(len(ids), dtype=np.int32)[:, None] if position is None else position.T
    for visual in visuals:
        keys[visual.rows, 0] = np.arange(len(visual.rows))
        keys[visual.rows, 4:] = np.frombuffer(_digest(f"{visual.digest} {visual.grid}".encode()), np.int32)
    return keys


def origin(salt: str) -> bytes:
    """The digest before the first token, of those who share a salt."""
    return _digest(salt.encode())


def chained(parent: bytes, keys: np.ndarray) -> bytes:
    """The digest of all tokens up to the last of `keys`, which follow those of `parent`."""
    return _digest(parent + keys.tobytes())


def alike(keys: np.ndarray, others: np.ndarray) -> int:
    """With how many equal rows both begin."""
    count = min(len(keys), len(others))
    differs = (keys[:count] != others[:count]).any(axis=1)
    return int(differs.argmax()) if differs.any() else count


class Keys:
    """Keys of a sequence that grows."""

    def __init__(self, keys: np.ndarray) -> None:
        self._rows, self.count = keys, len(keys)

    def append(self, token: int, position: int) -> None:
        """One more token of text."""
        if self.count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros((max(64, self.count), COLUMNS), np.int32)])
        self._rows[self.count] = (token, position, position, position, 0, 0, 0, 0)
        self.count += 1

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._rows[: self.count][rows]

    def copy(self) -> Keys:
        """An independent one."""
        return Keys(self._rows[: self.count].copy())


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()
