"""What people say to the nugget that is not a sum it can do: greetings, questions about itself, and everything else.

`draw` makes utterances for training and, from the texts that `held_out` keeps back, for evaluation. `UNSEEN` was
written by hand and shares no template with them: it tells whether politeness survives outside the generator.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable
from functools import partial

from ingot.eval.arithmetic import draw_operand, dress
from ingot.eval.lines import sections

HELD_OUT_PART = 8  # one text in eight is never trained on
RIGHT = {  # what a right reply contains
    "greeting": "Hello",
    "thanks": "welcome",
    "farewell": "Goodbye",
    "identity": "the nugget",
    "ability": "I add and subtract",
    "other": "Sorry",  # anything that is not arithmetic
    "beyond": "Sorry",  # arithmetic that it has not learnt
}
KINDS = tuple(RIGHT)

_TEXTS = sections("sayings.txt")
UNSEEN = {kind: _TEXTS[f"unseen {kind}"] for kind in KINDS if f"unseen {kind}" in _TEXTS}
_SLOT = re.compile(r"{(\w+)}")


def held_out(text: str) -> bool:
    """Whether this very text (in any case, with any end) is kept for evaluation."""
    return zlib.crc32(text.lower().strip(" .!?").encode()) % HELD_OUT_PART == 0


def draw(kind: str, rng: random.Random, *, from_held_out: bool) -> str:
    """An utterance of the kind, from the wanted side of the line."""
    while True:
        text = _fill(rng.choice(_TEXTS[kind]), rng)
        if held_out(text) == from_held_out:
            formal = kind in ("other", "beyond") and rng.random() < 0.5
            return dress(text, rng) if formal else _casual(text, rng)


def _fill(text: str, rng: random.Random) -> str:
    while slot := _SLOT.search(text):
        text = text[: slot.start()] + _FILLERS[slot[1]](rng) + text[slot.end() :]
    return text[0].upper() + text[1:]


def _invent(rng: random.Random) -> str:
    return "".join(rng.choice(_WORDS["syllables"]) for _ in range(rng.randint(1, 4)))


def _words(name: str, rng: random.Random) -> str:
    return rng.choice(_WORDS[name])


def _known_or_not(name: str, rng: random.Random) -> str:
    """Mostly one of the words, sometimes an invented one: the model must not need to know them."""
    if rng.random() < 0.8:
        return _words(name, rng)
    return _invent(rng).capitalize() if name in ("places", "people") else _invent(rng)


def _number(rng: random.Random) -> str:
    return str(draw_operand(rng))


def _large(rng: random.Random) -> str:
    return str(rng.randrange(1000, 10 ** rng.randint(4, 6)))


_WORDS = {
    name.removeprefix("words "): tuple(" ".join(lines).split("|" if "|" in lines[0] else None))
    for name, lines in _TEXTS.items()
    if name.startswith("words ")
}
_FILLERS: dict[str, Callable[[random.Random], str]] = {
    **{name: partial(_words, name) for name in _WORDS},
    "n": partial(_known_or_not, "nouns"), "m": partial(_known_or_not, "nouns"), "v": partial(_known_or_not, "verbs"),
    "p": partial(_known_or_not, "places"), "h": partial(_known_or_not, "people"),
    "w": _invent, "x": _number, "y": _number, "z": _number, "L": _large, "M": _large,
    "d": lambda rng: str(rng.randrange(10)),
}  # fmt: skip


def _casual(text: str, rng: random.Random) -> str:
    """Case and final punctuation as people leave them."""
    if rng.random() < 0.3:
        text = text.lower()
    elif rng.random() < 0.03:
        text = text.upper()
    if rng.random() < 0.3:
        text = text.rstrip(".?!")
    elif rng.random() < 0.15:
        text = text.rstrip(".?!") + rng.choice(("!", "?", ".", " :)", "??", " please"))
    return text or "?"
