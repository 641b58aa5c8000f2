"""The README says what the records say, and the records' summary is right."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest

from bench import quality, results

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"cpu": "A Processor", "cpus": 2, "memory": 8, "system": "Linux"}


def record(cell: str, turn: int, ours: float, theirs: float, **more: object) -> dict:
    base = {"size": "0.8B", "format": "q4", "peer": "q4_0_pure", "cell": cell, "turn": turn, "unit": "tok/s"}
    base |= {"commit": "abc", "kv": "default", "threads": 2, "machine": MACHINE, "read_bytes_s": 3e10, "llama": "x"}
    return {**base, "ours": ours, "theirs": theirs, **more}


def test_the_readme_has_the_table_of_the_records() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    records = results.read_records(results.RESULTS / "side_by_side.jsonl")
    assert results.with_section(text, records) == text, "run `python -m bench.results`"


def test_the_ratio_is_the_median_of_the_pairs_and_lies_in_its_interval() -> None:
    pairs = [(20.0, 10.0), (33.0, 10.0), (30.0, 20.0), (18.0, 10.0), (40.0, 20.0)]
    middle, low, high = results.ratio(pairs)
    assert middle == 2.0  # not the ratio of the medians: a slow minute slows both of a pair
    assert statistics.median([a for a, _ in pairs]) / statistics.median([b for _, b in pairs]) != middle
    assert 1.5 <= low <= middle <= high <= 3.3
    assert results.ratio([(2.0, 4.0)], higher_is_better=False) == (2.0, 2.0, 2.0)


def test_only_the_commit_measured_last_is_shown() -> None:
    old, new = record("decode at 64", 0, 1.0, 10.0, commit="old"), record("decode at 64", 0, 20.0, 10.0)
    shown = results.table([old, new, record("prefill 512", 0, 300.0, 100.0)])
    assert "20.0 vs 10.0: **2.00×**" in shown
    assert "300.0 vs 100.0: **3.00×**" in shown
    assert "0.10" not in shown


def test_less_is_better_in_seconds_and_megabytes() -> None:
    shown = results.table([record("memory", 0, 500.0, 1000.0, unit="MB")])
    assert "500 vs 1,000: **2.00×**" in shown


def test_divergence_of_known_distributions() -> None:
    p = np.log(np.array([[0.5, 0.5], [0.9, 0.1]]))
    q = np.log(np.array([[0.5, 0.5], [0.1, 0.9]]))
    found = quality.compare([p], [q])
    assert found["kl_max"] == pytest.approx(0.8 * np.log(9))
    assert found["kl_mean"] == pytest.approx(0.4 * np.log(9))
    assert found["same_top"] == 0.5
    assert quality.compare([p], [p])["kl_max"] == 0
