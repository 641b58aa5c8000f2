"""One thing looked at: right, wrong, or not to be looked at here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OK, FAIL, SKIP = "ok", "FAIL", "skip"
Found = tuple[str, dict[str, Any]]  # a sentence, and the figures behind it


@dataclass(frozen=True)
class Check:
    """`state` "ok", "FAIL" or "skip"; `text` one sentence; `data` the figures; `seconds` what it took."""

    name: str
    state: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class SkippedError(Exception):
    """This check cannot be made here, which says nothing about the model; the message is the reason."""


class FailedError(Exception):
    """The model is not right: a sentence, and the figures."""

    def __init__(self, text: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.data = data or {}


def run_check(name: str, look: Callable[[], Found]) -> Check:
    """Make one check, whatever it raises: the next are still to be made."""
    begin = time.perf_counter()
    try:
        text, data = look()
        state = OK
    except SkippedError as error:
        state, text, data = SKIP, str(error), {}
    except FailedError as error:
        state, text, data = FAIL, str(error), error.data
    except Exception as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        known = isinstance(error, ValueError | OSError)
        state, text, data = FAIL, what if known else f"{type(error).__name__}: {what}", {}
    return Check(name, state, text, data, round(time.perf_counter() - begin, 3))
