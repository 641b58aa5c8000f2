"""How many threads this process should compute with: what its affinity, its control group and the cores allow."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/")


def default_threads(root: Path = SYSTEM) -> int:
    """One thread a physical core that this process may use, and no more than its control group grants time for.

    Siblings of one core share its vector units and its path to memory: a second thread waits for the first. A thread
    beyond the group's quota makes all of them stand still for the rest of the period.
    """
    granted = cpu_quota(root)
    count = _cores(allowed_cpus(), root)
    return max(1, count if granted is None else min(count, math.ceil(granted)))


def allowed_cpus() -> set[int]:
    """The CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cpu_quota(root: Path = SYSTEM) -> float | None:
    """CPUs whose time this process's control group grants, version 2 or 1, its parents' limits included; None: all."""
    limits = [limit for group in _groups(root) if (limit := _limit(group)) is not None]
    return min(limits, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Directories of the control groups that hold this process, the mount's own last: inside a container that is
    ours."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        place = mount / path.lstrip("/")
        yield from (place, *(above for above in place.parents if above.is_relative_to(mount)))


def _limit(group: Path) -> float | None:
    words = _text(group / "cpu.max").split() or [
        _text(group / "cpu.cfs_quota_us").strip(),
        _text(group / "cpu.cfs_period_us").strip(),
    ]
    try:
        quota, period = map(int, words)
    except ValueError:  # "max", or no limit here
        return None
    return quota / period if quota > 0 and period > 0 else None


def _cores(cpus: set[int], root: Path) -> int:
    """Physical cores among the CPUs; each CPU counts where the system does not tell."""
    place = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return len({_text(root / place.format(cpu)).strip() or str(cpu) for cpu in cpus})


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
