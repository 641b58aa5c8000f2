"""`ingot bench`: every figure is there, and each is beside a bound made of the same work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingot.cli import main
from ingot.spec import official, parse_config
from ingot.spec.cost import memory
from ingot.spec.roof import Limits, prefill_work, step_work
from tests.api.small_model import write_small_model

pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")
LIMITS = {
    "read": {"2": {"bytes_s": 3e10}},
    "peak_ops_s": {"2": {"fp32 fma": 3e11, "int8 vnni": 1e12, "int8 amx": 9e12, "bf16 amx": 4e12}},
}


def test_the_nugget_in_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick", "--weights", "q8", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    names = [(f["what"], f["tokens"], f["rows"]) for f in record["figures"]]
    assert names == [("prefill", 512, 512), ("decode", 64, 1), *(("step", 64, n) for n in (2, 3, 4, 8, 16))]
    assert all(f["tokens_s"] > 0 and f["roof_tokens_s"] > 0 for f in record["figures"])
    assert (record["weights"], record["kv"], record["random"]) == ("q8", "bf16", False)
    assert record["load_s"] > 0


def test_random_weights_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_small_model(tmp_path / "small") / "config.json"
    assert main(["bench", "--quick", "--config", str(config), "--random", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "random weights: speed only" in shown
    assert "1 thread\n" in shown


def test_the_hardwares_limits_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "limits.txt"
    path.write_text(f"a table\n{json.dumps(LIMITS)}\n")
    assert main(["bench", "--quick", "--weights", "q4", "--threads", "2", "--limits", str(path), "--json"]) == 0
    limits = json.loads(capsys.readouterr().out)["limits"]
    assert limits == {"bytes_s": 3e10, "matrix_s": 9e12, "vector_s": 3e11, "of": "the hardware"}
    assert main(["bench", "--threads", "1", "--limits", str(path)]) == 2
    assert "--limits has no figures for 1 threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--random"], "--config and --random go together"),
        (["--config", "0.8B"], "--config and --random go together"),
        (["--limits", __file__], "whose last line is not the JSON of `python -m bench.limits`"),
        (["nugget", "--config", "0.8B", "--random"], "MODEL and --config exclude each other"),
    ],
)
def test_wrong_words(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_decoding_step_must_read_every_weight_once() -> None:
    """0.8B as q4: 4.5 bits a weight and the state of 18 layers in and out, by hand."""
    config = parse_config(official("0.8b"))
    cost = memory(config, "q4", 256)
    work = step_work(config, cost, 1, 0)
    assert work.bytes == cost.weights + 2 * cost.state + cost.kv_token
    assert work.bytes == pytest.approx(752_000_000 * 4.5 / 8 + 38e6, rel=0.02)
    assert work.seconds(Limits(1e9, 1e18, 1e18)) == work.bytes / 1e9


def test_more_rows_and_tokens_are_more_work() -> None:
    config = parse_config(official("0.8b"))
    cost = memory(config, "q4", 256)
    one, four = step_work(config, cost, 1, 64), step_work(config, cost, 4, 64)
    assert four.vector == 4 * one.vector
    assert 4 * one.matrix < four.matrix < 4.01 * one.matrix  # the rows see each other's keys
    assert four.bytes - one.bytes == 3 * cost.kv_token
    prompt = prefill_work(config, cost, 512, 256)
    assert prompt.matrix == pytest.approx(2 * 512 * 498e6, rel=0.02)  # without the head, which has one row
    assert prefill_work(config, cost, 512, 128).bytes - prompt.bytes == 2 * (cost.weights + 2 * cost.state)
