"""Conversations to ids, a turn at a time: what earlier requests have said is not cut into tokens again.

A control token splits a text before any merge, so the ids of a conversation are those of its turns, one after the
other. A conversation of 30,000 tokens is a tenth of a second of cutting, of which the next request needs its last turn.
"""

from __future__ import annotations

import sys

import numpy as np

from ingot.prompt.recent import Recent
from ingot.prompt.tokenizer import Tokenizer

END = "<|im_end|>"
MOST_BYTES = 16 << 20  # of turns that are remembered; taste: 8 conversations as long as the context
_PROBE = f" {END}two {END}\u0338 {END}"  # END may be a token only where no word follows, or nothing that it melts with


class TurnEncoder:
    """Encodes as `tokenizer` does, and remembers turns in `most_bytes` of memory; for several threads. Each salt has
    turns of its own: how long an answer takes does not tell what others have said."""

    def __init__(self, tokenizer: Tokenizer, most_bytes: int = MOST_BYTES) -> None:
        self._tokenizer = tokenizer
        self.turns: Recent[tuple[str, str]] = Recent(most_bytes, lambda key: sum(map(sys.getsizeof, key)))
        parts = [index for turn in _turns(_PROBE) for index in tokenizer.encode(turn)]
        self._splits = tokenizer.has_token(END) and tokenizer.encode(_PROBE) == parts

    def encode(self, text: str, salt: str = "") -> np.ndarray:
        """The int32 ids of a text in which control tokens are read as such."""
        turns = _turns(text) if self._splits else [text]
        return np.concatenate([self._turn(turn, salt) for turn in turns])

    def _turn(self, turn: str, salt: str) -> np.ndarray:
        ids = self.turns.get((salt, turn))
        if ids is None:
            ids = np.array(self._tokenizer.encode(turn), np.int32)
            self.turns.put((salt, turn), ids)
        return ids


def _turns(text: str) -> list[str]:
    """The text, cut behind each end of a turn."""
    *ended, last = text.split(END)
    return [*(turn + END for turn in ended), last]
