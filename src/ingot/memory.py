"""How much memory this process may still take: what the machine has free, within the limits of its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MEMINFO, MEMBERSHIP = "/proc/meminfo", "/proc/self/cgroup"
# version -> where the groups are, a group's limit, what it uses, and how much of that is cache it can give up
GROUPS = {
    2: ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    1: ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available() -> int | None:
    """Bytes that can be taken before something is swapped or killed; None where the system does not say."""
    return min([*_machine(), *_groups()], default=None)


def _machine() -> Iterator[int]:
    numbers = _table(Path(MEMINFO))
    if "MemAvailable:" in numbers:
        yield numbers["MemAvailable:"] * 1024


def _groups() -> Iterator[int]:
    """What each control group of this process, up to the root, leaves it. Inside a container its own group is the
    root."""
    for version, path in _memberships():
        root, limit, used, cache = GROUPS[version]
        names = [part for part in path.split("/") if part]
        for depth in range(len(names), -1, -1):
            folder = Path(root, *names[:depth])
            bound, taken = _number(folder / limit), _number(folder / used)
            if bound is not None and taken is not None:
                yield max(0, bound - taken + _table(folder / "memory.stat").get(cache, 0))


def _memberships() -> Iterator[tuple[int, str]]:
    """(version, path) of the groups that count this process's memory."""
    for line in _text(Path(MEMBERSHIP)).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            yield (1 if controllers else 2), path


def _table(path: Path) -> dict[str, int]:
    """First word -> second word of each line, where that is a number."""
    words = (line.split() for line in _text(path).splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}


def _number(path: Path) -> int | None:
    text = _text(path).strip()  # "max": no limit
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
