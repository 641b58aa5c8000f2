"""Where a prompt left what the prefix cache knows, as text: why a turn was not warm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ingot.engine import Reuse
from ingot.prompt import Tokenizer

SHOWN = 16  # tokens before the place and after it


@dataclass(frozen=True)
class Divergence:
    """At token number `token` (the first is 0), behind the text `before`, the cache has `expected`, and the prompt has
    `got`."""

    token: int
    before: str
    expected: str
    got: str


def divergence(ids: Sequence[int] | np.ndarray, reuse: Reuse, tokenizer: Tokenizer) -> Divergence | None:
    """Of a prompt with these ids; None where it has all that the cache knows, or goes on where that ends."""
    at = reuse.matched
    if at >= len(ids) or not reuse.expected:
        return None
    parts = ids[max(0, at - SHOWN) : at], reuse.expected[:SHOWN], ids[at : at + SHOWN]
    before, expected, got = (tokenizer.decode([int(index) for index in part]) for part in parts)
    return Divergence(at, before, expected, got)


def cache_report(ids: Sequence[int] | np.ndarray, reuse: Reuse | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """What the prefix cache did for a prompt, ready for JSON: counts of tokens, and `diverged`."""
    reuse = reuse or Reuse()
    found = divergence(ids, reuse, tokenizer)
    return {
        "prompt_tokens": len(ids),
        "cached_tokens": reuse.cached,
        "matched_tokens": reuse.matched,
        "disk_tokens": reuse.disk,
        "diverged": None if found is None else asdict(found),
    }
