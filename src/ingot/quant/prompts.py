"""The file of prompts that a calibration reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ingot.prompt import ChatTemplate, Tokenizer, render
from ingot.prompt.outside_text import read_text
from ingot.quant.calibration import Calibration

PIECE_TOKENS = 512  # a plain text is cut into pieces of so many tokens
MOST_TOKENS = 16_384  # read; more changes little and costs time in proportion (taste)


def read_prompts(path: Path, tokenizer: Tokenizer, template: ChatTemplate | None) -> Calibration:
    """The token sequences of a file: JSON lines of {"text": ...} or {"messages": [...], "tools": [...]} when its name
    ends in .jsonl, otherwise plain text. ValueError naming the file and the line for what cannot be read."""
    sequences, left = [], MOST_TOKENS
    for text in _json_lines(path, template) if path.suffix == ".jsonl" else [read_text(path)]:
        ids = np.asarray(tokenizer.encode(text), np.int32)[:left]
        sequences += [ids[i : i + PIECE_TOKENS] for i in range(0, len(ids), PIECE_TOKENS)]
        left -= len(ids)
    if left == MOST_TOKENS:
        raise ValueError(f"{path}: holds no text to calibrate with")
    return Calibration(sequences)


def _json_lines(path: Path, template: ChatTemplate | None) -> Iterator[str]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not valid JSON ({error})") from None
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            yield row["text"]
        elif isinstance(row, dict) and "messages" in row:
            try:
                yield render(row["messages"], row.get("tools"), template, add_generation_prompt=False)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        else:
            raise ValueError(f'{where} must be an object with "text" or "messages"')
