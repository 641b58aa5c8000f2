"""A smaller input that fails in the same place."""

from __future__ import annotations

import time

from tools.fuzz.target import Finding, Target
from tools.fuzz.worker import once

SECONDS = 20.0  # spent on one finding (taste)


def minimised(target: Target, finding: Finding) -> bytes:
    """`finding.data` with the pieces left out that its failure does not need; what was found in the time there is."""
    data, end = finding.data, time.monotonic() + SECONDS
    size = len(data) // 2
    while size >= 1 and time.monotonic() < end:
        at = 0
        while at < len(data) and time.monotonic() < end:
            shorter = data[:at] + data[at + size :]
            again = once(target, shorter)
            if again is not None and again.signature == finding.signature:
                data = shorter
            else:
                at += size
        size //= 2
    return data
