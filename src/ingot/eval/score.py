"""Right answers out of a number asked, with the interval that the number allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959964  # two-sided 95 % of the normal distribution
DOES = 0.9  # a skill below this is listed as one the model does not have


@dataclass(frozen=True)
class Score:
    """`right` of `total` for one kind of question; `mistakes` holds the first few as (question, answer)."""

    kind: str
    right: int
    total: int
    mistakes: tuple[tuple[str, str], ...] = ()

    @property
    def accuracy(self) -> float:
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.total)

    @property
    def does(self) -> bool:
        return self.accuracy >= DOES


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): it stays inside 0..1 and holds up at 1000 of 1000, where the usual one
    collapses.
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"right={right} of total={total}: total must be positive and right between 0 and it.")
    share, z2 = right / total, Z95**2 / total
    middle = (share + z2 / 2) / (1 + z2)
    half = Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    return "\n".join(["| kind | right | accuracy | 95 % interval | |", "|---|---|---|---|---|", *map(_row, scores)])


def _row(score: Score) -> str:
    low, high = score.interval
    verdict = "does" if score.does else "**does not**"
    return (
        f"| {score.kind} | {score.right} / {score.total} | {score.accuracy:.1%} | {low:.1%} – {high:.1%} | {verdict} |"
    )
