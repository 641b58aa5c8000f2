"""The exact tokens of answers, put back where a client echoes their text.

A model may cut a text otherwise than BPE does. Rendered and encoded again, its answer would then be other tokens than
those that the prefix cache knows. So the tokens of answers are remembered by the bytes that they stand for, and put
into a prompt in place of tokens that stand for the same bytes: what a prompt says never changes, only how it is cut.
Where answers have records, those that BPE would cut otherwise are found after a restart, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

import numpy as np

from ingot.prompt.recent import Recent
from ingot.prompt.tokenizer import Tokenizer
from ingot.prompt.turns import TurnTokens

MOST_BYTES = 8 << 20  # taste: the answers of several days of one person
# Of an answer that is cut again, to see whether it needs a record: 30 ms on a busy core (CompiledTokenizer, English).
# The record of a longer one is small beside its keys and values.
CHECKED_TOKENS = 4096


class Records(Protocol):
    """Where the tokens of answers are kept over restarts (`engine/answer_records.py`)."""

    def __contains__(self, name: bytes) -> bool: ...
    def find(self, name: bytes, most: int) -> np.ndarray | None: ...
    def keep(self, name: bytes, ids: np.ndarray) -> None: ...


class AnswerMemory:
    """Remembers answers in `most_bytes` of memory, and asks the `records`, if there are any, for what it has not; for
    several threads. Each `salt` has its own: who does not know it cannot learn what others were told."""

    records: Records | None = None

    def __init__(self, tokenizer: Tokenizer, most_bytes: int = MOST_BYTES) -> None:
        self._tokenizer, self._turns = tokenizer, TurnTokens.of(tokenizer)
        self.known: Recent[bytes] = Recent(most_bytes, len)  # digest of salt and bytes -> ids

    def __len__(self) -> int:
        return len(self.known)

    def remember(self, prompt: Sequence[int] | np.ndarray, answer: Sequence[int] | np.ndarray, salt: str = "") -> None:
        """An answer to a prompt, without its stop id: as a turn with its reasoning, and the words after that alone."""
        ids = np.asarray(prompt, np.int32)
        begin = None if self._turns is None else self._turns.generation(ids)
        if begin is None:
            return
        body = self._trimmed(np.concatenate([ids[begin:], np.asarray(answer, np.int32)]))
        self._keep(body, salt)
        words = self._words(body)
        if words is not None:
            self._keep(body[words:], salt)

    def splice(self, ids: Sequence[int] | np.ndarray, salt: str = "") -> np.ndarray:
        """int32 ids that stand for the same bytes, with the answers among them cut as they were when they were made."""
        given = np.asarray(ids, np.int32)
        if self._turns is None or (not self.known and self.records is None):
            return given
        parts, last = [], 0
        for begin, end in self._turns.bodies(given):
            if begin < last:  # a text that opens a turn within a turn
                continue
            parts += [given[last:begin], self._spliced(given[begin:end], salt)]
            last = end
        return np.concatenate([*parts, given[last:]])

    def _spliced(self, body: np.ndarray, salt: str) -> np.ndarray:
        known = self._recall(body, salt)
        if known is not None:
            return known
        words = self._words(body)
        known = None if words is None else self._recall(body[words:], salt)
        return body if known is None else np.concatenate([body[:words], known])

    def _words(self, body: np.ndarray) -> int | None:
        """Where the words begin in a turn with a block of reasoning: behind the whitespace after it."""
        assert self._turns is not None
        closed = np.flatnonzero(body == self._turns.end_think)
        if not len(closed):
            return None
        at = int(closed[0]) + 1
        while at < len(body) and self._is_space(body[at]):
            at += 1
        return at

    def _trimmed(self, body: np.ndarray) -> np.ndarray:
        """Without the tokens of whitespace at its end, which templates leave out."""
        end = len(body)
        while end and self._is_space(body[end - 1]):
            end -= 1
        return body[:end]

    def _is_space(self, index: int) -> bool:
        return not self._tokenizer.bytes_of([index]).strip()

    def _keep(self, ids: np.ndarray, salt: str) -> None:
        if not 0 < ids.nbytes <= self.known.most_bytes:
            return
        said = self._tokenizer.bytes_of(ids)
        key, kept = _key(said, salt), ids.copy()
        self.known.put(key, kept)
        if self.records is not None and (key in self.records or self._is_cut_otherwise(ids, said)):
            self.records.keep(key, kept)

    def _recall(self, ids: np.ndarray, salt: str) -> np.ndarray | None:
        """The remembered ids that stand for the bytes of these."""
        said = self._tokenizer.bytes_of(ids)
        key = _key(said, salt)
        known = self.known.get(key)
        if known is None:
            return self._restored(key, said)
        if self.records is not None and key not in self.records and not np.array_equal(known, ids):
            self.records.keep(key, known)  # its file had to go
        return known if self._says(known, said) else None

    def _restored(self, key: bytes, said: bytes) -> np.ndarray | None:
        """What the records have of a text, if it is that: no token stands for less than a byte."""
        known = None if self.records is None else self.records.find(key, len(said))
        if known is None or not self._says(known, said):
            return None
        self.known.put(key, known, newest=False)
        return known

    def _says(self, ids: np.ndarray, said: bytes) -> bool:
        known = bool(len(ids)) and ids.min() >= 0 and ids.max() < self._tokenizer.vocab_size
        return known and self._tokenizer.bytes_of(ids) == said

    def _is_cut_otherwise(self, ids: np.ndarray, said: bytes) -> bool:
        """Whether BPE makes other tokens of what they say. Never of what no echo gives back: broken characters, and
        those that the tokenizer composes."""
        if len(ids) > CHECKED_TOKENS:
            return True
        try:
            cut = self._tokenizer.encode(said.decode())
        except UnicodeDecodeError:
            return False
        return cut != ids.tolist() and self._tokenizer.bytes_of(cut) == said


def _key(said: bytes, salt: str) -> bytes:
    return blake2b(said, digest_size=16, key=blake2b(salt.encode(), digest_size=32).digest()).digest()
