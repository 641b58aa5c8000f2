"""Drafts: tokens that are tried before they are known, so that one pass may give several.

They come from the text itself (prompt lookup): what followed the last tokens where they were before. A draft is
accepted where the sampler, with the same seed and index, chooses the same token from the model's own logits: the answer
is the one that would have come without, to the bit. Whether trying pays is measured: `Odds` of a draft being right,
which cost nothing to watch, and `Pace`, the seconds of a pass by its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import numpy as np

from ingot.engine.sampler import MASK64

FACTOR = 0x9E3779B97F4A7C15  # odd, and its bits in no order (the golden ratio's)
# Whether drafts are tried: where they pay, whenever there are some, never.
SPECULATE = ("auto", "lookup", "off")
# Tokens tried at most: one tile of 16 rows with the one that is certain (docs/why/drafts.md).
MOST_DRAFTS = 15
# Lengths of the sequences that are looked up: one that is seldom a coincidence, and the shortest that says anything
# (taste; vLLM's prompt_lookup_min and max are of that size).
LONG, SHORT = 8, 3
# How far back a match is followed to tell how long it is: longer ones are alike.
FAR = 32
# A pass must promise so much more than one without drafts, because its seconds are noisy (taste).
MARGIN = 1.03
# After so many passes what was measured is measured again: contexts grow, machines get busy (taste: half a minute).
STALE = 1024


class Lookup:
    """Where the end of a text was before, and what followed there; each token costs the same, however long the text."""

    def __init__(self, ids: Sequence[int] | np.ndarray) -> None:
        *self._ids, last = np.asarray(ids).tolist()
        self._after = {size: _places(self._ids, size) for size in (LONG, SHORT)}
        self._next, self.match = 0, 0  # place of the guess, and how many tokens before it are the last ones, up to FAR
        self.append(last)

    def append(self, token: int) -> None:
        """The text goes on with `token`."""
        followed = self.match > 0 and self._ids[self._next] == token
        self._ids.append(token)
        self._next, self.match = (self._next + 1, min(self.match + 1, FAR)) if followed else (0, 0)
        for size, after in self._after.items():
            if len(self._ids) >= size:
                tail = _mixed(self._ids[-size:])
                place = after.get(tail)
                if place is not None and self.match < size <= (common := self._common(place)):
                    self._next, self.match = place, common
                after[tail] = len(self._ids)

    def _common(self, place: int) -> int:
        """How many tokens before `place` are also the last ones, up to FAR."""
        end, n = len(self._ids), 0
        while n < min(FAR, place) and self._ids[place - 1 - n] == self._ids[end - 1 - n]:
            n += 1
        return n

    def draft(self, count: int) -> list[int]:
        """The next tokens if the text goes on as it did; none without a match. What reaches its end repeats itself."""
        if not self.match:
            return []
        found = self._ids[self._next : self._next + count]
        for i in range(count - len(found)):
            found.append(found[i])
        return found


def _mixed(ids: Sequence[int]) -> int:
    """One number for some ids in a row. Others may have it too, so that places are compared."""
    mixed = 0
    for i in ids:
        mixed = (mixed * FACTOR + i) & MASK64
    return mixed


def _places(ids: list[int], size: int) -> dict[int, int]:
    """Of each `size` tokens in a row the place after them, the last one where there are several."""
    array = np.array(ids, np.uint64)
    mixed = np.zeros(max(0, len(ids) - size + 1), np.uint64)
    for first in range(size):
        mixed = mixed * np.uint64(FACTOR) + array[first : first + len(mixed)]
    return dict(zip(mixed.tolist(), range(size, len(ids) + 1), strict=True))


class Odds:
    """How often a guess was right, by the length of its match: a share that fades, so that it follows the text."""

    # up to which length, and what is expected before anything was seen (taste: low, for drafts that fail cost time)
    CLASSES = ((3, 0.2), (7, 0.3), (15, 0.5), (FAR - 1, 0.6), (FAR, 0.7))
    WEIGHT = 4.0  # guesses that the expectation counts for
    FADE = 0.96  # of what was seen, with each guess: the last 25 count

    def __init__(self) -> None:
        self._right = [self.WEIGHT * share for _, share in self.CLASSES]
        self._seen = [self.WEIGHT for _ in self.CLASSES]

    def see(self, match: int, right: bool) -> None:
        """A guess with a match of that length was right, or not."""
        i = self._class(match)
        self._right[i] = self._right[i] * self.FADE + right
        self._seen[i] = self._seen[i] * self.FADE + 1

    def chances(self, match: int, count: int) -> list[float]:
        """Of each of `count` guesses in a row to be right, and all before it: matches lengthen as guesses are right."""
        shares = [self._right[i] / self._seen[i] for i in (self._class(match + k) for k in range(count))]
        return list(accumulate(shares, mul))

    def _class(self, match: int) -> int:
        return next((i for i, (longest, _) in enumerate(self.CLASSES) if match <= longest), len(self.CLASSES) - 1)


class Pace:
    """Seconds of a pass that only decodes, by its rows: measured where it was tried, estimated between and beyond.
    `token_s`: what a token of a prompt took the last time that one was read; 0: nobody knows."""

    SLOPE = 0.15  # of a row in a pass of one, before it is measured (docs/why/drafts.md)
    NEW = 0.25  # what the last pass counts for
    JUMP = 2.0  # times slower than before: not the pass, but the machine

    def __init__(self) -> None:
        self.token_s = 0.0
        self._seconds: dict[int, float] = {}
        self._seen: dict[int, int] = {}
        self._passes = 0

    def see(self, rows: int, seconds: float) -> None:
        """A pass of that many rows took so long."""
        self._passes += 1
        before = self._seconds.get(rows)
        if before is not None:
            seconds = before + self.NEW * (min(seconds, self.JUMP * before) - before)
        self._seconds[rows], self._seen[rows] = seconds, self._passes
        for old in [r for r, at in self._seen.items() if self._passes - at > STALE]:
            del self._seconds[old], self._seen[old]

    def knows(self, rows: int) -> bool:
        """Whether such a pass was measured lately."""
        return rows in self._seconds

    def of(self, rows: int) -> float:
        """Seconds that such a pass will take; something must have been measured."""
        below = max((r for r in self._seconds if r <= rows), default=None)
        above = min((r for r in self._seconds if r >= rows), default=None)
        if below is not None and above is not None and below < above:
            share = (rows - below) / (above - below)
            return self._seconds[below] * (1 - share) + self._seconds[above] * share
        nearest = above if below is None else below
        assert nearest is not None
        return self._seconds[nearest] * self._shape(rows) / self._shape(nearest)

    def _shape(self, rows: int) -> float:
        return 1 + self.SLOPE * (rows - 1)


class Drafter:
    """The drafts of one answer, and what came of them."""

    def __init__(self, ids: Sequence[int] | np.ndarray) -> None:
        self.lookup, self.odds = Lookup(ids), Odds()

    def chances(self, most: int) -> list[float]:
        """Of each of the next drafts, `most` at most, to be accepted."""
        match = self.lookup.match
        return self.odds.chances(match, max(0, min(most, MOST_DRAFTS))) if match else []

    def remember(self, token: int) -> None:
        """The answer goes on with `token`, whether it was tried or not."""
        if self.lookup.match:
            self.odds.see(self.lookup.match, self.lookup.draft(1) == [token])
        self.lookup.append(token)


def worthwhile(chances: Sequence[Sequence[float]], pace: Pace) -> list[int]:
    """How many drafts to try for each of several answers that decode together: those that make most tokens a second.

    `chances[i][k]` is the chance that draft k of answer i is accepted, falling in k. Without drafts a pass gives a
    token each; a draft adds its chance, and costs a row. The likeliest come first.
    """
    answers = len(chances)
    ranked = sorted(((chance, i) for i, each in enumerate(chances) for chance in each), reverse=True)
    if not ranked or not pace.knows(answers):  # measured first: nothing can be compared with it else
        return [0] * answers
    tokens = list(accumulate((chance for chance, _ in ranked), initial=float(answers)))
    rates = [given / pace.of(answers + n) for n, given in enumerate(tokens)]
    best = max(range(len(rates)), key=rates.__getitem__)
    counts = [0] * answers
    for _, i in ranked[: best if rates[best] > MARGIN * rates[0] else 0]:
        counts[i] += 1
    return counts
