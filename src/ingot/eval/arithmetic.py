"""Sums of two whole numbers up to three digits: the questions, which of them are held out, and what counts as right.

The recipe that trains the nugget draws its questions here too, from the pairs of the split "train". No pair of
operands is in two splits, and `split_of` looks at the unordered pair: 17 + 25, 25 + 17 and 25 - 17 are always
together.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from ingot.eval.lines import sections

# A sixteenth of the 500,500 unordered pairs for the card, as many for choosing settings, the rest for training.
SPLITS: tuple[str, ...] = ("test", "dev", *("train",) * 14)
# Shares of operands with one, two and three digits (taste: people ask small sums, large ones are harder).
DIGIT_SHARES = (0.15, 0.35, 0.5)
BEFORE = (
    "Please ", "please ", "Hi, ", "Hello! ", "Hey, ", "Quick: ", "Quick question: ", "Now ", "And ", "Then ", "Ok, ",
    "Next: ", "Nugget, ", "Question: ", "So, ",
)  # fmt: skip
AFTER = (" Thanks!", " thanks", " please", ", please", " Please.", "  ", " Thank you.", " for me")
WORDINGS = sections("wordings.txt")


@dataclass(frozen=True)
class Sum:
    """One question: a + b or a - b."""

    a: int
    op: str
    b: int

    @property
    def question(self) -> str:
        """As the nugget writes it."""
        return f"{self.a}{self.op}{self.b}"

    @property
    def answer(self) -> int:
        return self.a + self.b if self.op == "+" else self.a - self.b

    @property
    def digits(self) -> int:
        """Digits of the longer operand."""
        return len(str(max(self.a, self.b)))


def split_of(a: int, b: int) -> str:
    """Train, dev or test. A checksum decides, so that no list has to be shipped or trusted."""
    return SPLITS[zlib.crc32(f"{min(a, b)} {max(a, b)}".encode()) % len(SPLITS)]


def draw_operand(rng: random.Random, digit_shares: Sequence[float] = DIGIT_SHARES) -> int:
    digits = rng.choices((1, 2, 3), digit_shares)[0]
    return rng.randrange(0 if digits == 1 else 10 ** (digits - 1), 10**digits)


def draw_sum(
    rng: random.Random, split: str, digit_shares: Sequence[float] = DIGIT_SHARES, ops: Sequence[str] = "+-"
) -> Sum:
    """A sum whose pair of operands belongs to the split; `ops` holds each sign as often as it should come."""
    op = rng.choice(ops)
    while True:
        a, b = draw_operand(rng, digit_shares), draw_operand(rng, digit_shares)
        if split_of(a, b) == split:
            return Sum(a, op, b)


def ask(sum_: Sum, rng: random.Random, *, unseen: bool = False) -> str:
    """One of the many ways to ask for the sum; `unseen` takes those that are never trained."""
    kind = "addition" if sum_.op == "+" else "subtraction"
    if unseen:
        return rng.choice(WORDINGS[f"unseen {kind}"]).format(a=sum_.a, b=sum_.b)
    wordings = WORDINGS[kind]
    if sum_.op == "-" and sum_.a >= sum_.b:
        wordings += WORDINGS["difference"]
    return dress(rng.choice(wordings).format(a=sum_.a, b=sum_.b), rng)


def dress(text: str, rng: random.Random) -> str:
    """The same question as hurried, polite or shouting people type it."""
    style = rng.random()
    if style < 0.12:
        text = rng.choice(BEFORE) + text[0].lower() + text[1:]
    elif style < 0.18:
        text = text.rstrip(".?") + rng.choice(AFTER)
    elif style < 0.24:
        text = text.rstrip(".?")
    if rng.random() < 0.25:
        text = text.lower()
    elif rng.random() < 0.03:
        text = text.upper()
    if rng.random() < 0.02:
        text = text.replace(" - ", " − ").replace(" + ", "  +  ")
    return text


def is_right(answer: str, sum_: Sum) -> bool:
    """The answer must be the number, or the sum with it ("17+25=42"), and nothing else but spaces and a full stop."""
    text = re.sub(r"\s", "", answer).removesuffix(".")
    return text in (str(sum_.answer), f"{sum_.question}={sum_.answer}")
