"""Result records and what is said about them: medians of pairs, with an interval of the ratio.

`python -m bench.results` writes the table of the README from bench/results/side_by_side.jsonl, between its markers.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
SAMPLES = 2000
BEGIN, END = "<!-- side by side: begin -->", "<!-- side by side: end -->"
PEER_NAMES = {"bf16": "BF16", "q8_0": "Q8_0", "q4_0_pure": "Q4_0, 4-bit head", "q4_0": "Q4_0", "q4_k_m": "Q4_K_M"}
Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The JSON lines of a file; none where it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, record: Record) -> None:
    """One more JSON line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def disk_ratios(record: Record) -> tuple[float, float]:
    """A conversation's bytes on disk over those of its keys, its values and a recurrent state a request, and over those
    with a state a question of the user's."""
    counts = len(record["asked"]), len({one["turn"] for one in record["asked"]})
    request, question = (
        record["disk_bytes"] / (record["kv_bytes"] + count * record["state_bytes"]) for count in counts
    )
    return request, question


def now() -> str:
    """The time of a record."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def commit() -> str:
    """The commit of the source tree, with a + when src or native differ from it."""
    head = subprocess.run(["git", "rev-parse", "--short=9", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src", "native"], cwd=ROOT)
    return head.stdout.strip() + ("+" if changed.returncode else "")


def ratio(pairs: Sequence[tuple[float, float]], higher_is_better: bool = True) -> tuple[float, float, float]:
    """Median of ours / theirs (inverted where low is better) and its 95 % bootstrap interval over the pairs."""
    ratios = [a / b if higher_is_better else b / a for a, b in pairs]
    rng = random.Random(0)  # the same table from the same records
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(SAMPLES))
    return statistics.median(ratios), medians[int(0.025 * SAMPLES)], medians[int(0.975 * SAMPLES)]


def newest(records: Sequence[Record]) -> dict[tuple[str, str, str, str], list[Record]]:
    """(size, format, peer, cell) -> its records of the commit and KV format measured last."""
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["size"], record["format"], record["peer"], record["cell"]), []).append(record)
    same = ("commit", "kv", "threads")
    return {key: [r for r in rows if all(r[k] == rows[-1][k] for k in same)] for key, rows in groups.items()}


def table(records: Sequence[Record]) -> str:
    """The README's table: a row for each model, format and peer, a column for each measurement."""
    groups = newest(records)
    cells = list(dict.fromkeys(cell for *_, cell in groups))
    lines = [
        "| | " + " | ".join(f"{cell} ({_unit(groups, cell)})" for cell in cells) + " |",
        "|---" * (len(cells) + 1) + "|",
    ]
    for size, fmt, peer in dict.fromkeys(key[:3] for key in groups):
        shown = [_cell(groups.get((size, fmt, peer, cell), [])) for cell in cells]
        lines.append(f"| {size} {fmt} vs {PEER_NAMES[peer]} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _unit(groups: dict[tuple[str, str, str, str], list[Record]], cell: str) -> str:
    return next(rows[0]["unit"] for key, rows in groups.items() if key[-1] == cell)


def _cell(rows: list[Record]) -> str:
    """ours vs theirs: ratio [interval]"""
    if not rows:
        return "–"
    ours, theirs = (statistics.median(row[who] for row in rows) for who in ("ours", "theirs"))
    middle, low, high = ratio([(row["ours"], row["theirs"]) for row in rows], rows[0]["unit"] == "tok/s")
    digits = 0 if rows[0]["unit"] == "MB" else 1
    return f"{ours:,.{digits}f} vs {theirs:,.{digits}f}: **{middle:.2f}×** [{low:.2f}..{high:.2f}]"


def section(records: Sequence[Record]) -> str:
    """All that stands between the markers."""
    if not records:
        return "Nothing has been measured yet."
    last = records[-1]
    machine = last["machine"]
    runs = [len(rows) for rows in newest(records).values()]
    reads = [record["read_bytes_s"] / 1e9 for record in records]
    count = f"{min(runs)}" if min(runs) == max(runs) else f"{min(runs)} to {max(runs)}"
    read = f"{min(reads):.0f} to {max(reads):.0f} GB/s"
    return (
        f"{table(records)}\n\n"
        f"Ours vs theirs, medians of {count} pairs run in turns; then the median of the pairs' ratios (above 1: Ingot\n"
        f"is better) with its 95 % interval. {last['threads']} threads of {machine['cpu']}, which read\n"
        f"{read} meanwhile; {last['llama']} with the settings\n"
        "that are best for each measurement. Random weights: speed only."
    )


def with_section(text: str, records: Sequence[Record]) -> str:
    """`text` with its section between the markers renewed."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{section(records)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write the README's table."""
    readme = ROOT / "README.md"
    records = read_records(RESULTS / "side_by_side.jsonl")
    readme.write_text(with_section(readme.read_text(encoding="utf-8"), records), encoding="utf-8")


if __name__ == "__main__":
    main()
