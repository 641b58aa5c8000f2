"""Stop strings over a stream of text, wherever the pieces are cut."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.spec.text_file import shown

# OpenAI allows 4; llama.cpp and vLLM more. The bound keeps a request's cost per character bounded (taste).
MAX_STOPS = 32


def checked_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The stop strings as a tuple; ValueError for empty ones, for other types and for more than MAX_STOPS."""
    if not isinstance(stop, str | list | tuple | None):
        raise ValueError(f"stop is {shown(stop)}; a string or a list of strings is allowed")
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS:
        raise ValueError(f"stop has {len(stops)} strings; at most {MAX_STOPS} are allowed")
    for s in stops:
        if not isinstance(s, str) or not s:
            raise ValueError(f"stop holds {shown(s)}; non-empty strings are allowed")
    return stops


class StopText:
    """Lets text through up to the first stop string, holding back what could still become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.hit, self._held = tuple(stops), False, ""

    def push(self, text: str) -> str:
        """The part of the text so far that no stop string can reach any more; sets `hit` when one is complete."""
        if self.hit:
            return ""
        held = self._held + text
        found = [at for s in self.stops if (at := held.find(s)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return held[: min(found)]
        keep = max((_overlap(held, s) for s in self.stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was held back, once the stream has ended without a stop."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop` (and is not all of it)."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
