"""What this machine can do at most, measured: the roofs beside which every other figure is printed.

`python -m bench.limits` prints a table and one JSON line; it needs a C++ compiler (CXX, or c++). Nothing here knows
Ingot. Other measurements call `reading`, so that each has the bandwidth of its own minute beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.process import run

SOURCE = Path(__file__).with_name("limits.cpp")
FLAGS = ["-O3", "-std=c++20", "-pthread"]
READ_MIB = 1024  # ten times the largest cache that such machines have: nothing of the last sweep is left
SEARCH_MIB = 512
CACHE_SIZES_MIB = (1, 16, 64, 256, 512)  # where a small model's weights live
# Good on every machine tried; `best_read` searches.
PATTERN: dict[str, Any] = {"pages": "huge", "streams": 4, "distance": 2048, "tile": 2 << 20}
SIBLINGS_NS = 35.0  # taste: two threads of one core 5 to 25 ns, neighbours on one ring 30 to 90, sockets above 100


def program() -> Path:
    """The compiled limits.cpp, for this machine; compiled once for each text of it."""
    text = SOURCE.read_bytes()
    name = f"ingot-limits-{hashlib.sha256(text + platform.node().encode()).hexdigest()[:16]}"
    place = Path(tempfile.gettempdir()) / name
    if not place.exists():
        native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
        made = place.with_suffix(f".{os.getpid()}")
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, *FLAGS, native, str(SOURCE), "-o", str(made)], check=True)
        made.rename(place)
    return place


def lines(*words: object) -> list[dict[str, Any]]:
    """What one command of the program prints."""
    return [json.loads(line) for line in run([program(), *words]).stdout.splitlines()]


def read_rate(threads: int, mib: int = READ_MIB, passes: int = 5, pattern: dict[str, Any] = PATTERN) -> float:
    """Bytes a second that `threads` threads read, by the best of `passes` sweeps over `mib` MiB."""
    return float(lines("read", mib, threads, passes, *(pattern[key] for key in PATTERN))[0]["bytes_s"])


def reading(threads: int) -> dict[str, float]:
    """The bandwidth of this moment, in under a second: for between two measurements."""
    return {"read_bytes_s": read_rate(threads, passes=4)}


def best_read(threads: int) -> list[dict[str, Any]]:
    """Every pattern's rate, the best first; the first three were swept again over `READ_MIB`."""
    tried = sorted(lines("read", SEARCH_MIB, threads, 3), key=_rate, reverse=True)
    best = [lines("read", READ_MIB, threads, 8, *(row[key] for key in PATTERN))[0] for row in tried[:3]]
    return [*sorted(best, key=_rate, reverse=True), *tried[3:]]


def everything(threads: int) -> dict[str, Any]:
    """All limits for one thread and for `threads`."""
    counts = sorted({1, threads})
    places = lines("pingpong")
    record: dict[str, Any] = {"kind": "limits", "machine": machine(), "threads": threads}
    record["pingpong_ns"] = {"-".join(map(str, p["cpus"])): p["ns"] for p in places if p["kind"] == "pingpong"}
    record["clock_ghz"] = places[-1]["ghz"]
    record["peak_ops_s"] = {n: {row["unit"]: row["ops_s"] for row in lines("peaks", n)} for n in counts}
    reads = {n: best_read(n) for n in counts}
    record["read"] = {n: rows[0] for n, rows in reads.items()}
    record["read_by_pages"] = {n: {p: _best_of(rows, p) for p in ("huge", "4k", "file")} for n, rows in reads.items()}
    record["read_of_size"] = {n: {mib: read_rate(n, mib) for mib in CACHE_SIZES_MIB} for n in counts}
    record["update_bytes_s"] = {n: lines("update", READ_MIB, n, 4)[0]["bytes_s"] for n in counts}
    return record


def machine() -> dict[str, Any]:
    """What computer this is."""
    model = platform.processor() or platform.machine()
    cpus, memory = os.cpu_count(), 0
    try:
        words = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        words = {key.strip(): value.strip() for key, value in words.items()}
        model = words.get("model name", model)
        memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return {"cpu": model, "cpus": cpus, "memory": memory, "system": platform.platform()}


def table(record: dict[str, Any]) -> str:
    """The record as text."""
    threads = list(record["read"])
    rows = [f"{record['machine']['cpu']}, {record['machine']['cpus']} CPUs, {record['clock_ghz']:.2f} GHz", ""]
    rows.append(f"{'':<34}" + "".join(f"{f'{n} thread' + 's' * (int(n) > 1):>14}" for n in threads))

    def add(name: str, values: list[float], unit: str, scale: float) -> None:
        rows.append(f"{name:<34}" + "".join(f"{value / scale:>9.1f} {unit}" for value in values))

    add("read, the best pattern", [record["read"][n]["bytes_s"] for n in threads], "GB/s", 1e9)
    for n in threads:
        best = record["read"][n]
        tiles = f", tiles of {best['tile'] >> 20} MiB in turn" if best["tile"] else ""
        rows.append(f"    {n}: {best['pages']} pages, {best['streams']} streams, {best['distance']} bytes ahead{tiles}")
    for pages in ("huge", "4k", "file"):
        add(f"read, {pages} pages", [record["read_by_pages"][n][pages] for n in threads], "GB/s", 1e9)
    for mib in record["read_of_size"][threads[0]]:
        add(f"read again and again, {mib} MiB", [record["read_of_size"][n][mib] for n in threads], "GB/s", 1e9)
    add("read and write back", [record["update_bytes_s"][n] for n in threads], "GB/s", 1e9)
    for unit in record["peak_ops_s"][threads[0]]:
        add(unit, [record["peak_ops_s"][n][unit] for n in threads], "Gop/s", 1e9)
    for cpus, ns in record["pingpong_ns"].items():
        near = "two threads of one core, probably" if ns < SIBLINGS_NS else "two cores"
        rows.append(f"{f'a cache line from CPU {cpus}, one way':<34}{ns:>9.1f} ns ({near})")
    return "\n".join(rows)


def _rate(row: dict[str, Any]) -> float:
    return float(row["bytes_s"])


def _best_of(rows: list[dict[str, Any]], pages: str) -> float:
    return max((_rate(row) for row in rows if row["pages"] == pages), default=0.0)


def main() -> None:
    """Measure all, print a table and a JSON line."""
    parser = argparse.ArgumentParser(prog="python -m bench.limits", description=__doc__.split("\n\n")[0])
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=cpus, help="the most at once (default: all CPUs)")
    args = parser.parse_args()
    record = everything(args.threads)
    print(table(record))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
