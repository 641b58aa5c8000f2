"""After which tokens of a chat's prompt others are likely to go on otherwise: where a cache keeps snapshots.

    system       the end of the system and tools block, which all chats of an application share
    breakpoint   where the client says so
    media        after each picture and video, the costliest to read again
    turn         before what the assistant's turn consists of, reasoning included: the next turn's prompt has the same
                 tokens up to there, whether or not its template drops the reasoning

A mark in the wrong place costs time and never changes an answer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from ingot.prompt.tokenizer import Tokenizer
from ingot.prompt.turns import TurnTokens

Mark = tuple[int, str]  # after so many tokens, and its kind


def marks(
    ids: np.ndarray, turns: TurnTokens, rows: Sequence[np.ndarray] = (), breakpoints: Sequence[int] = ()
) -> tuple[Mark, ...]:
    """The marks of a prompt, each position once, in order; `rows` are the tokens that its pictures take, `breakpoints`
    positions of the client's."""
    found: dict[int, str] = {}
    for at in [turns.first_user(ids)]:
        if at:
            found[at] = "system"
    for position in breakpoints:
        found[position] = "breakpoint"
    for of_one in rows:
        found.setdefault(_after(ids, int(of_one[-1]) + 1, turns.end_vision), "media")
    turn = turns.generation(ids)
    if turn is not None:
        found[turn] = "turn"
    return tuple((at, found[at]) for at in sorted(found) if 0 < at < len(ids))


def tokens_in(texts: Sequence[str], ids: Sequence[int] | np.ndarray, tokenizer: Tokenizer) -> list[int]:
    """How many of the ids each beginning of what they say takes; a token that goes beyond it counts not."""
    ends = np.cumsum([len(said) for said in tokenizer.each_bytes(ids)])
    sizes = [len(unicodedata.normalize("NFC", text).encode()) for text in texts]
    return [int(place) for place in np.searchsorted(ends, sizes, side="right")]


def _after(ids: np.ndarray, at: int, end_vision: int) -> int:
    while at < len(ids) and ids[at] == end_vision:
        at += 1
    return at
