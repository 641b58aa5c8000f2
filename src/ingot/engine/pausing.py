"""An op set that draws breath: long work through it can be interleaved with other work, or dropped, between any two
operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


class Pausing:
    """`ops`, of which every operation first calls `pause`. What `pause` raises ends the work; else it may use `ops` as
    it likes, and no bit of the work changes."""

    def __init__(self, ops: Any, pause: Callable[[], None]) -> None:
        self._ops, self._pause = ops, pause

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ops, name)
        if not callable(found):
            return found

        @wraps(found)
        def paused(*args: Any, **named: Any) -> Any:
            self._pause()
            return found(*args, **named)

        return paused
