"""`ingot plan`: the sizes it prints are the sizes there are, and what does not fit is said."""

from __future__ import annotations

import json

import pytest

from ingot import memory
from ingot.cli import main, plan
from ingot.spec import cost as costs
from ingot.spec import official, parse_config

pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")
GIB = 2**30


def record(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict:
    assert main(["plan", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_every_format_with_the_bytes_of_the_cost_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys, "--config", "0.8B", "--context", "1000")
    config = parse_config(official("0.8b"))
    assert [row["weights"] for row in found["plans"]] == ["q4", "q8", "bf16", "f32"]
    for row in found["plans"]:
        wanted = costs.memory(config, row["weights"], 256, kv="f32" if row["weights"] == "f32" else "bf16")
        assert row["bytes"]["weights"] == wanted.weights
        assert row["bytes"]["total"] == wanted.total(1000)
        assert row["tokens_s"]["decode_at_most"] > 0
        assert row["tokens_s"]["decode"] is None


def test_what_fits_is_the_longest_that_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: GIB)
    row = record(capsys, "--config", "0.8B", "--weights", "q4", "--kv", "q8")["plans"][0]
    spare = GIB - (row["bytes"]["total"] - row["bytes"]["kv"]) - row["longest"] * row["bytes"]["kv_token"]
    assert 0 <= spare < row["bytes"]["kv_token"]
    assert row["fits"]
    one_more = str(row["longest"] + 1)
    words = ("--config", "0.8B", "--weights", "q4", "--kv", "q8", "--context", one_more)
    assert not record(capsys, *words, code=1)["plans"][0]["fits"]
    assert main(["plan", *words, "--measure"]) == 2
    assert "cannot be measured here" in capsys.readouterr().err


def test_a_context_beyond_the_model_needs_yarn(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--config", "0.8B", "--weights", "q4", "--kv", "q8", "--context", "1000000")
    assert main(["plan", *words]) == 2
    assert "1 to 262,144 tokens\nhint: --yarn 4 makes it longer" in capsys.readouterr().err
    assert main(["plan", *words, "--yarn", "0.5"]) == 2
    assert "yarn is 0.5; it must be a number above 1" in capsys.readouterr().err
    main(["plan", *words, "--yarn", "4", "--json"])
    row = json.loads(capsys.readouterr().out)["plans"][0]
    assert row["bytes"]["kv"] == 10**6 * row["bytes"]["kv_token"]


def test_the_nugget_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys, "--measure", "--context", "70")
    assert [row["weights"] for row in found["plans"]] == ["bf16"]
    assert found["plans"][0]["tokens_s"]["decode"] > 0
    assert found["plans"][0]["tokens_s"]["prefill"] > 0


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "2B", "--weights", "q8"]) == 0
    shown = capsys.readouterr().out
    assert "2B with 8,192 tokens of context" in shown
    assert "stay in the checkpoint's file" in shown


def test_what_pictures_take_is_told(
    tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingot.spec import weights_table
    from tests.store.store_files import config, make_checkpoint

    monkeypatch.setattr(plan, "_native", lambda args: None)  # speeds are for other tests
    assert main(["plan", "--config", "0.8B", "--weights", "q4"]) == 0
    assert "pictures take more: the vision tower 107 (q4) MiB from the first one on" in capsys.readouterr().out
    path = make_checkpoint(tmp_path / "seeing", config())
    found = record(capsys, str(path), "--weights", "f32")["plans"][0]["vision"]
    rows = [w for w in weights_table(parse_config(config())).values() if w.component == "vision"]
    held = [(-(-w.shape[0] // 16) * 16, w.matrix_shape[1]) if w.role == "matrix" else (w.size, 1) for w in rows]
    assert found["weights"] == sum(4 * outputs * inputs for outputs, inputs in held)
    assert found["tokens"] == 48 * 64
    blind = make_checkpoint(tmp_path / "blind", config(), vision=False)
    assert record(capsys, str(blind), "--weights", "f32")["plans"][0]["vision"] is None
    assert main(["plan"]) == 0
    assert "pictures" not in capsys.readouterr().out


def test_random_weights_are_run_in_the_shape_of_any_config(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.api.small_model import write_small_model

    config = write_small_model(tmp_path / "small") / "config.json"
    found = record(capsys, "--config", str(config), "--weights", "q4", "--measure", "--context", "40")
    assert found["plans"][0]["tokens_s"]["decode"] > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--config", "7B"], "--config is '7B'; a config.json is needed, or an official size: 0.8b, 2b, 4b, 9b, 27b"),
        (["--config", "2B", "nugget"], "MODEL and --config exclude each other"),
        (["--context", "0"], "--context is 0; this model's context is 1 to 4,096 tokens"),
        (["--config", "9B", "--context", "262145"], "this model's context is 1 to 262,144 tokens"),
        (["--weights", "q5"], "invalid choice: 'q5'"),
    ],
)
def test_wrong_words(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_config_that_is_none(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama"}')
    assert main(["plan", "--config", str(path)]) == 2
    assert f"{path}: model_type is 'llama'" in capsys.readouterr().err


def test_without_kernels_no_speed_is_promised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_native", lambda args: None)
    assert record(capsys, "--weights", "q4")["plans"][0]["tokens_s"]["decode_at_most"] is None
