"""The tables of docs/bench.md about serving, from bench/results. `python -m bench.served_results` writes them between
their markers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.results import PEER_NAMES, RESULTS, Record, disk_ratios, read_records

GUIDE = Path(__file__).resolve().parents[1] / "docs/bench.md"
NOTHING = "Nothing has been measured yet."
COLUMNS = (  # of a load: title, key, digits
    ("all (tok/s)", "tok_s", 1),
    ("each (tok/s)", "user_tok_s", 1),
    ("first token p50 (s)", "first_p50_s", 2),
    ("p99 (s)", "first_p99_s", 2),
    ("longest stall (s)", "stall_s", 2),
)


TITLES = (  # of a conversation
    *("client", "server", "prompts", "computed again", "most over the bound", "first token p50 (s)", "longest (s)"),
    *("after a restart (s)", "cold (s)", "disk (MB)", "over a state a request", "a question"),
)


def load_table(records: Sequence[Record]) -> str:
    """Users at a time: ours / theirs, of the commit measured last."""
    if not records:
        return NOTHING
    last = records[-1]
    same = ("commit", "size", "format", "peer", "prompt", "answer", "ours_options", "theirs_options", "threads")
    rows = [record for record in records if all(record[key] == last[key] for key in same)]
    lines = ["| users | " + " | ".join(title for title, *_ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for users in sorted({row["users"] for row in rows}):
        cells = [_both([row for row in rows if row["users"] == users], key, digits) for _, key, digits in COLUMNS]
        lines.append(f"| {users} | " + " | ".join(cells) + " |")
    about = (
        f"Ours / llama-server's, {last['size']} {last['format']} / {PEER_NAMES[last['peer']]}: prompts of "
        f"{last['prompt']} tokens that share nothing,\nanswers of {last['answer']}; {last['threads']} threads of "
        f"{last['machine']['cpu']}. Random weights: speed only."
    )
    return "\n".join([*lines, "", about])


def _both(rows: Sequence[Record], key: str, digits: int) -> str:
    ours, theirs = (statistics.median(row[who][key] for row in rows) for who in ("ours", "theirs"))
    return f"{ours:.{digits}f} / {theirs:.{digits}f}"


def conversation_table(records: Sequence[Record]) -> str:
    """What is computed again in each style of client, ours and theirs: the newest of the settings measured last."""
    if not records:
        return NOTHING
    last = records[-1]
    same = ("size", "format", "scale", "answer", "pause", "scripted", "threads")
    rows = [record for record in records if all(record[key] == last[key] for key in same)]
    newest = {(row["style"], row["who"]): row for row in rows}
    lines = ["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|"]
    lines += [_conversation(row) for row in newest.values()]
    end = max(row["asked"][-1]["prompt"] for row in newest.values())
    commits = sorted({row["commit"] for row in newest.values()})
    about = (
        f"Sixteen requests in eight turns, growing to {end:,} tokens; the first, which is cold, is left out. The bound "
        f"of a request: tokens that\nthe client wrote since the last, those of the last visible answer, and 64. After "
        f"each turn the client pauses for {last['pause']:g} seconds.\nThe states on disk: megabytes, and over the "
        f"bytes of the last prompt's keys and values and one recurrent state a request, or a question\n(two requests); "
        f"of a history that is edited, what was said before is kept, too.\n{last['threads']} threads of "
        f"{last['machine']['cpu']}, commit {', '.join(commits)}. Random weights: speed only."
    )
    return "\n".join([*lines, "", about])


def _conversation(row: Record) -> str:
    asked = row["asked"][1:]
    over = max(one["recomputed"] - one["bound"] for one in asked)
    seconds = sorted(one["first_s"] for one in asked)
    cells = [row["style"], "ours" if row["who"] == "ours" else "llama-server"]
    cells += [f"{sum(one[key] for one in asked):,}" for key in ("prompt", "recomputed")]
    cells += [f"{over:,}" if over > 0 else "none", f"{statistics.median(seconds):.2f}", f"{seconds[-1]:.2f}"]
    cells += [f"{row[key]['first_s']:.2f}" if key in row else "–" for key in ("restarted", "cold")]
    return "| " + " | ".join(cells + _disk(row)) + " |"


def _disk(row: Record) -> list[str]:
    if not row.get("disk_bytes"):
        return ["–"] * 3
    return [f"{row['disk_bytes'] / 1e6:,.0f}", *(f"{ratio:.2f}×" for ratio in disk_ratios(row))]


TABLES: dict[str, Callable[[Sequence[Record]], str]] = {
    "served_load": load_table,
    "conversations": conversation_table,
}


def with_tables(text: str, records: dict[str, Sequence[Record]]) -> str:
    """`text` with the tables between its markers renewed."""
    for name, table in TABLES.items():
        begin, end = (f"<!-- {name}: {where} -->" for where in ("begin", "end"))
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{table(records[name])}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Write the guide's tables."""
    records: dict[str, Sequence[Record]] = {name: read_records(RESULTS / f"{name}.jsonl") for name in TABLES}
    GUIDE.write_text(with_tables(GUIDE.read_text(encoding="utf-8"), records), encoding="utf-8")


if __name__ == "__main__":
    main()
