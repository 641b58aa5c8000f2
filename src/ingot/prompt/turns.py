"""Where the turns of a rendered conversation begin and end, found by its control tokens.

A control token is one id, and no merge goes across it: `<|im_start|>assistant\\n` has the same ids wherever it stands,
whatever comes before and after. A text that writes control tokens itself can only put a turn where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.prompt.tokenizer import Tokenizer

_NEEDED = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class TurnTokens:
    """The ids of a chat format's markup: what opens a user's and an assistant's turn, what ends a turn, what closes
    reasoning (-1: nothing), and what ends a picture (-1)."""

    user: tuple[int, ...]
    assistant: tuple[int, ...]
    end: int
    end_think: int
    end_vision: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TurnTokens | None:
        """Those of a tokenizer; None where it has no tokens for turns."""
        if not all(tokenizer.has_token(token) for token in _NEEDED):
            return None
        user, assistant = (tuple(tokenizer.encode(f"<|im_start|>{role}\n")) for role in ("user", "assistant"))
        optional = [
            tokenizer.token_id(token) if tokenizer.has_token(token) else -1 for token in ("</think>", "<|vision_end|>")
        ]
        return cls(user, assistant, tokenizer.token_id("<|im_end|>"), *optional)

    def first_user(self, ids: np.ndarray) -> int | None:
        """Tokens before the first user's turn."""
        return next(_found(ids, self.user), None)

    def generation(self, ids: np.ndarray) -> int | None:
        """Tokens before what an assistant's last turn, which has not ended, consists of: before `<think>`, too."""
        *_, last = (None, *_found(ids, self.assistant))
        if last is None:
            return None
        begin = last + len(self.assistant)
        return None if self.end in ids[begin:] else begin

    def bodies(self, ids: np.ndarray) -> Iterator[tuple[int, int]]:
        """(begin, end) of what each assistant's turn that has ended consists of."""
        ends = np.flatnonzero(ids == self.end)
        for at in _found(ids, self.assistant):
            begin = at + len(self.assistant)
            place = int(np.searchsorted(ends, begin))
            if place < len(ends):
                yield begin, int(ends[place])


def _found(ids: np.ndarray, wanted: Sequence[int]) -> Iterator[int]:
    """Where a run of ids stands among others."""
    for at in np.flatnonzero(ids == wanted[0]).tolist():
        if ids[at : at + len(wanted)].tolist() == list(wanted):
            yield at
