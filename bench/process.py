"""A measured process: its wall time, its peak memory, and how much of the machine others used meanwhile."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.01
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ran:
    """What a process printed and cost; memory in bytes. `anonymous` and `file` are the peaks of the two kinds, `others`
    the share of all CPUs that other processes used."""

    stdout: str
    seconds: float
    peak: int
    anonymous: int
    file: int
    others: float


def run(words: Sequence[object], timeout: float = 900, env: Mapping[str, str] | None = None) -> Ran:
    """Run a command at the highest priority we may have. Raises RuntimeError with the end of its stderr."""
    command = [str(word) for word in words]
    busy, own, begin = _busy_s(), _children_s(), time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command,
            stdout=out,
            stderr=errors,
            env=dict(env) if env else None,
            preexec_fn=first,
            start_new_session=True,
        )
        anonymous = file = 0
        try:
            while True:
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
                if pid:
                    break
                now = resident(child.pid)
                anonymous, file = max(anonymous, now[0]), max(file, now[1])
                if time.perf_counter() - begin > timeout:
                    raise RuntimeError(f"{' '.join(command)}: not done after {timeout:.0f} s")
                time.sleep(POLL_S)
        except BaseException:
            child.kill()
            child.wait()
            raise
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), errors.seek(0)
        if child.returncode:
            tail = errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)}: exit code {child.returncode}\n{tail}")
        others = max(0.0, _busy_s() - busy - (_children_s() - own)) / seconds / (os.cpu_count() or 1)
        return Ran(out.read().decode(), seconds, usage.ru_maxrss * 1024, anonymous, file, round(others, 3))


def environment() -> dict[str, str]:
    """This process's, with the clone's own sources before what is installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """While it holds the lock file no other measurement that knows the file runs."""
    if lock is None:
        yield
        return
    import fcntl

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def first() -> None:
    """Before others: the session's scheduling group and the process, as far as the system lets us."""
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("-20")
    with contextlib.suppress(OSError):
        os.nice(-20)


def resident(pid: int) -> tuple[int, int]:
    """Bytes of anonymous and of file-backed memory in RAM; zeros where /proc does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("Rss"))
        return int(fields["RssAnon"].split()[0]) * 1024, int(fields["RssFile"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0, 0


def _busy_s() -> float:
    """CPU seconds that all processes have used since the machine started."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return 0.0
    return (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
