"""Conversations to ids, a turn at a time: what earlier requests have said is not cut into tokens again.

A control token splits a text before any merge, so the ids of a conversation are those of its turns, one after the
other. A conversation of 30,000 tokens is a tenth of a second of cutting, of which the next request needs its last turn.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import numpy as np

from ingot.prompt.tokenizer import Tokenizer

END = "<|im_end|>"
MOST_CHARACTERS = 8 << 20  # of turns that are remembered; taste: 8 conversations as long as the context, 20 MB
_PROBE = f" {END}two {END}\u0338 {END}"  # END may be a token only where no word follows, or nothing that it melts with


class TurnEncoder:
    """Encodes as `tokenizer` does, and remembers turns of `most_characters` in all; for several threads. Each salt has
    turns of its own: how long an answer takes does not tell what others have said."""

    def __init__(self, tokenizer: Tokenizer, most_characters: int = MOST_CHARACTERS) -> None:
        self._tokenizer, self._most = tokenizer, most_characters
        self._known: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
        self._lock = Lock()
        self.characters = 0
        parts = [index for turn in _turns(_PROBE) for index in tokenizer.encode(turn)]
        self._splits = tokenizer.has_token(END) and tokenizer.encode(_PROBE) == parts

    def encode(self, text: str, salt: str = "") -> np.ndarray:
        """The int32 ids of a text in which control tokens are read as such."""
        turns = _turns(text) if self._splits else [text]
        return np.concatenate([self._turn(turn, salt) for turn in turns])

    def _turn(self, turn: str, salt: str) -> np.ndarray:
        key = (salt, turn)
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        ids = np.array(self._tokenizer.encode(turn), np.int32)
        with self._lock:
            self._keep(key, ids)
        return ids

    def _keep(self, key: tuple[str, str], ids: np.ndarray) -> None:
        if key in self._known or len(key[1]) > self._most:
            return
        self._known[key] = ids
        self.characters += len(key[1])
        while self.characters > self._most:
            (_, oldest), _ = self._known.popitem(last=False)
            self.characters -= len(oldest)


def _turns(text: str) -> list[str]:
    """The text, cut behind each end of a turn."""
    *ended, last = text.split(END)
    return [*(turn + END for turn in ended), last]
