"""The tokens of answers in the prefix cache's journal, under names that say nothing of them."""

from __future__ import annotations

import numpy as np

from ingot.engine.disk import ANSWER_RECORD, Journal


class AnswerRecords:
    """Keeps int32 ids under names of 16 bytes. For any thread, as the journal is."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __contains__(self, name: bytes) -> bool:
        """Whether there is one, or will be; a use of its file."""
        return name in self._journal

    def find(self, name: bytes, most: int) -> np.ndarray | None:
        """The ids of that name, `most` at most; None where there are none, or not those that were written."""
        record = self._journal.find(name)
        if record is None or record.kind != ANSWER_RECORD or record.nbytes > 4 * most:
            return None
        ids = np.empty(record.nbytes // 4, np.int32)
        return ids if self._journal.read(record, [ids]) else None

    def keep(self, name: bytes, ids: np.ndarray) -> None:
        """Have the ids found under the name, in place of others; they must not change afterwards."""
        known = self.find(name, len(ids))
        if known is None or not np.array_equal(known, ids):
            self._journal.append(ANSWER_RECORD, name, [ids], replace=True)
