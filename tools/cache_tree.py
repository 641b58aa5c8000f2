"""`python -m tools.cache_tree [--svg FILE]`: what the prefix cache keeps after a few turns with the nugget, as text and
drawn.

A line, and a bar, is a run of tokens that nothing branches from; those to the right go on from its end. The marks are
snapshots: places from which a prompt can go on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import ingot
from ingot.answering import answer
from ingot.engine.prefix_cache import PrefixCache
from ingot.options import Options
from ingot.prompt import Tokenizer

SYSTEM = "You are a friendly tutor for children. Answer in one short sentence, and check your sums. " * 4
WIDTH, ROW, BAR, MARGIN, LEGEND = 960, 46, 10, 14, 26
COLOURS = {
    "system": "#1b6e3c",
    "turn": "#1f5fbf",
    "end": "#b25d00",
    "junction": "#a3195b",
    "breakpoint": "#6b4fbb",
    "media": "#00818a",
    "middle": "#707070",
}
Kept = tuple[tuple[int, ...], str]  # the ids of all tokens up to a snapshot, and its kind; "" is a page without one


@dataclass
class Run:
    """Tokens `begin` .. `end` of some prompts, their ids, the snapshots in them, and the runs that go on from it."""

    begin: int
    end: int
    ids: tuple[int, ...]
    snapshots: list[tuple[int, str]]
    next: list[Run] = field(default_factory=list)


def runs(cache: PrefixCache) -> list[Run]:
    """The trees of a cache, one for each first token of each salt."""
    kept: list[Kept] = [(_ids(node), "") for node in cache.nodes() if not node.children]
    for snapshot in cache.snapshots:
        kept.append(((*_ids(snapshot.node), *_first(snapshot.tail)), snapshot.kind))
    return _branches(sorted(kept), 0)


def _ids(node: Any) -> tuple[int, ...]:
    return tuple(index for page in node.path() for index in _first(page.keys))


def _first(keys: np.ndarray) -> Iterator[int]:
    return (int(index) for index in keys[:, 0])


def _branches(kept: Sequence[Kept], begin: int) -> list[Run]:
    by_next: dict[int, list[Kept]] = {}
    for ids, kind in kept:
        if len(ids) > begin:
            by_next.setdefault(ids[begin], []).append((ids, kind))
    return [_run(group, begin) for group in by_next.values()]


def _run(kept: Sequence[Kept], begin: int) -> Run:
    longest = max((ids for ids, _ in kept), key=len)
    end = min(_shared(ids, longest) if len(ids) > _shared(ids, longest) else len(longest) for ids, _ in kept)
    found = sorted((len(ids), kind) for ids, kind in kept if kind and len(ids) <= end)
    return Run(begin, end, longest[begin:end], found, _branches([one for one in kept if len(one[0]) > end], end))


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    same = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        same += 1
    return same


def as_text(found: Sequence[Run], tokenizer: Tokenizer, indent: str = "") -> Iterator[str]:
    """A line a run."""
    for run in found:
        said = tokenizer.decode(run.ids)
        said = said if len(said) <= 60 else f"{said[:28]} ... {said[-28:]}"
        marks = "".join(f"  [{kind} {at}]" for at, kind in run.snapshots)
        yield f"{indent}{run.begin:>4}-{run.end:<4} {said!r}{marks}"
        yield from as_text(run.next, tokenizer, indent + "    ")


def as_svg(found: Sequence[Run], tokenizer: Tokenizer) -> str:
    """The same, drawn: tokens from left to right, a row a branch."""
    rows = list(_placed(found, [0]))
    scale = (WIDTH - 2 * MARGIN) / max(run.end for run, _, _ in rows)
    height = LEGEND + ROW * (1 + max(row for _, row, _ in rows)) + MARGIN
    shapes = [shape for run, row, above in rows for shape in _shapes(run, row, above, scale, tokenizer)]
    shapes.sort(key=lambda shape: shape.startswith("<circle"))  # no bar hides a dot
    body = "\n".join([*_legend({kind for run, _, _ in rows for _, kind in run.snapshots}), *shapes])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    return f'{head}\n<rect width="{WIDTH}" height="{height}" fill="white"/>\n{body}\n</svg>\n'


def _placed(found: Sequence[Run], next_row: list[int], above: int = -1) -> Iterator[tuple[Run, int, int]]:
    """Each run, its row, and the row of what it goes on from: the longest goes on in the same row."""
    for number, run in enumerate(sorted(found, key=_reach, reverse=True)):
        row = above if number == 0 and above >= 0 else next_row[0]
        next_row[0] = max(next_row[0], row + 1)
        yield run, row, above
        yield from _placed(run.next, next_row, row)


def _reach(run: Run) -> int:
    return max([run.end, *map(_reach, run.next)])


def _shapes(run: Run, row: int, above: int, scale: float, tokenizer: Tokenizer) -> Iterator[str]:
    x, width = MARGIN + run.begin * scale, (run.end - run.begin) * scale
    y = LEGEND + ROW * row + MARGIN
    if 0 <= above < row:
        top = LEGEND + ROW * above + MARGIN + BAR
        yield f'<path d="M{x:.1f} {top} V{y + BAR}" stroke="#999" fill="none"/>'
    said = escape(tokenizer.decode(run.ids), quote=True)
    tip = f"<title>tokens {run.begin} to {run.end}: {said}</title>"
    yield f'<rect x="{x:.1f}" y="{y}" width="{max(width, 1):.1f}" height="{BAR}" fill="#d4dbe6">{tip}</rect>'
    room = int(width / 5.2)  # characters of 9 pixels
    text = tokenizer.decode(run.ids).replace("\n", " ")
    if room > 6:
        yield f'<text x="{x + 2:.1f}" y="{y + BAR + 12}" font-size="9" fill="#444">{escape(text[:room])}</text>'
    for at, kind in run.snapshots:
        tip = f"<title>{kind}, after {at} tokens</title>"
        yield f'<circle cx="{MARGIN + at * scale:.1f}" cy="{y + BAR / 2}" r="4" fill="{COLOURS[kind]}">{tip}</circle>'


def _legend(kinds: set[str]) -> Iterator[str]:
    x = MARGIN
    for kind in [kind for kind in COLOURS if kind in kinds]:
        yield f'<circle cx="{x + 4}" cy="14" r="4" fill="{COLOURS[kind]}"/>'
        yield f'<text x="{x + 12}" y="18" font-size="11" fill="#222">{kind}</text>'
        x += 90


def conversation(model: Any) -> None:
    """Three people who share a system message: one goes on, one asks again otherwise, one says good day."""
    system = {"role": "system", "content": SYSTEM}
    said = _turn(model, [system, _user("What is 17 + 25?")])
    _turn(model, [*said, _user("What is 42 + 99?")])
    _turn(model, [*said, _user("What is 42 + 100?")])
    _turn(model, [system, _user("Hello!")])


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _turn(model: Any, messages: list[Any]) -> list[Any]:
    """The messages with the answer to them, after which idle time has read what is known of the next prompt."""
    options = Options(max_tokens=200, sampling={"temperature": 0})
    job = model.chat_job(messages, None, True, options)
    completion = answer(model.engine, [job], options, False, False, None, None)
    scheduler, ahead = model.engine.scheduler(1), job.next_turn(completion)
    if ahead is not None:
        scheduler.add_idle(ahead)
    while scheduler.has_idle_work:
        scheduler.idle_step()
    return [*messages, completion.message]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the conversation, print the tree, write the picture."""
    parser = argparse.ArgumentParser(prog="python -m tools.cache_tree", description=__doc__)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it here")
    args = parser.parse_args(arguments)
    model = ingot.load(prefix_cache=64 << 20)
    conversation(model)
    found = runs(model.engine.cache)
    print("\n".join(as_text(found, model.encoder.tokenizer)))
    if args.svg:
        args.svg.write_text(as_svg(found, model.encoder.tokenizer), encoding="utf-8")


if __name__ == "__main__":
    main()
