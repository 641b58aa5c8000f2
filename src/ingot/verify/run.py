"""All checks of a checkpoint, in the order in which they are cheap and in which models follow one another in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ingot.verify import against, files, numbers, words
from ingot.verify.check import Check, Found, run_check
from ingot.verify.subject import Subject

FORMATS = ("q8", "q4")


def verify(
    path: Path,
    other: str | None = None,
    quick: bool = False,
    told: Callable[[int, int], None] | None = None,
    begins: Callable[[str], None] = lambda name: None,
) -> Iterator[Check]:
    """Each check of the checkpoint directory `path` as it is made; `begins` hears its name before, `told` the bytes it
    has read, and of how many.

    other  "transformers" compares logits with it; ValueError where it is not installed.
    quick  leaves out what reads or computes most: large digests, other instruction sets, speed of every format.
    """
    if other is not None:
        if other != "transformers":
            raise ValueError(f"other is {other!r}; 'transformers' is known")
        against.check_installed()
    subject = Subject(path, quick, told)
    for name, look in _checks(subject, other):
        begins(name)
        yield run_check(name, partial(look, subject))
    subject.give_up()


def _checks(subject: Subject, other: str | None) -> Iterator[tuple[str, Callable[[Subject], Found]]]:
    yield "files", files.digests
    yield "configuration", files.configuration
    yield "weights", files.weights
    yield "tokenizer", words.tokenizer
    yield "template", words.template
    yield "logits", numbers.logits
    yield "identities", numbers.identities
    yield "pictures", numbers.pictures
    yield "speed", numbers.speed
    for fmt in FORMATS:
        yield fmt, partial(numbers.divergence, fmt=fmt)
        if not subject.quick:
            yield f"{fmt} speed", partial(numbers.speed, fmt=fmt)
    if other is not None:
        yield "against", against.transformers
