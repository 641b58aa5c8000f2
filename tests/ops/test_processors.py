"""Default threads from an invented /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.ops import processors

SIBLINGS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


QUOTAS = {
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "version 2, a parent's": (
        {
            "proc/self/cgroup": "0::/user/app\n",
            "sys/fs/cgroup/user/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/user/app/cpu.max": "max 100000\n",
        },
        3.0,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/b\n",
            "sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_period_us": "100000\n",
        },
        2.0,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "not a number": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
    "no control groups": ({}, None),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quota(tmp_path: Path, name: str) -> None:
    files, want = QUOTAS[name]
    assert processors.cpu_quota(system(tmp_path, files)) == want


@pytest.mark.parametrize(
    ("quota", "siblings", "want"),
    [
        (None, None, 8),
        ("250000 100000", None, 3),
        ("50000 100000", None, 1),
        (None, "{pair},{other}", 4),
        ("250000 100000", "{pair},{other}", 3),
        ("900000 100000", "{pair},{other}", 4),
    ],
)
def test_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, siblings: str | None, want: int
) -> None:
    """8 CPUs; cpu n and n + 4 are one core where `siblings` says so."""
    monkeypatch.setattr(processors, "allowed_cpus", lambda: set(range(8)))
    files = {"proc/self/cgroup": "0::/\n"} | ({"sys/fs/cgroup/cpu.max": quota} if quota else {})
    if siblings:
        files |= {SIBLINGS.format(n): siblings.format(pair=n % 4, other=n % 4 + 4) for n in range(8)}
    assert processors.default_threads(system(tmp_path, files)) == want


def test_this_machine() -> None:
    assert 1 <= processors.default_threads() <= len(processors.allowed_cpus())
