"""States of one model are not taken for another's: everything that their bits depend on is in the fingerprint."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ingot.fingerprint as module
from ingot.fingerprint import fingerprint
from ingot.ops import reference
from ingot.spec.config import with_yarn
from ingot.store import Checkpoint, open_checkpoint
from tests.api.small_model import write_seeing_model, write_small_model

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)
OPS = native.OpSet(threads=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_small_model(tmp_path / "model")


def of(checkpoint: Path | Checkpoint, ops: Any = OPS, weights: str = "q8", kv: str = "bf16", **more: str) -> bytes:
    opened = open_checkpoint(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    made = fingerprint(opened, ops, weights, kv, **more)
    assert made is not None
    assert len(made) == 32
    return made


def test_threads_and_instruction_set_change_nothing(model: Path) -> None:
    assert of(model) == of(model, native.OpSet(threads=2, isa="scalar"))


def test_formats_context_numerics_and_op_set_do(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(model)
    stretched = replace(checkpoint, config=with_yarn(checkpoint.config, 2.0))
    found = [
        of(model),
        of(model, weights="q4"),
        of(model, kv="q8"),
        of(model, weights="q4", calibration="abc"),
        of(stretched),
        of(model, reference, "f32", "f32"),
        of(model, weights="f32", kv="f32"),
    ]
    for name in ("NUMERICS", "PAGE"):
        monkeypatch.setattr(module, name, 9)
        found.append(of(model))
    assert len(set(found)) == len(found)


def test_another_file_of_weights_does(model: Path) -> None:
    before = of(model)
    (weights,) = model.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, (1, 1))
    assert of(model) != before


def test_another_tower_does(tmp_path: Path) -> None:
    seeing = write_seeing_model(tmp_path / "seeing")
    checkpoint = open_checkpoint(seeing)
    assert of(checkpoint) != of(replace(checkpoint, has_vision=False))


def test_torch_has_none(model: Path) -> None:
    torch = pytest.importorskip("ingot.ops.autograd")
    assert fingerprint(open_checkpoint(model), torch.OpSet(device="cpu"), "f32", "f32") is None
