"""Random checkpoints: legal, repeatable, with values that a model can run on."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.spec import official, parse_config, weights_table
from ingot.store import open_checkpoint, write_random_checkpoint
from ingot.store.save import header_bytes
from ingot.store.tensor import byte_length
from tests.store.store_files import config, read_all, text_config

BIG = {
    "vocab_size": 3001,
    "hidden_size": 128,
    "intermediate_size": 500,
    "linear_num_key_heads": 40,
    "linear_num_value_heads": 80,
}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    files = [
        write_random_checkpoint(tmp_path / str(i), config(), seed=seed) / "model.safetensors"
        for i, seed in enumerate([3, 3, 4])
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[2].read_bytes()


def test_leaving_parts_out_changes_no_other_tensor(tmp_path):
    whole = read_all(write_random_checkpoint(tmp_path / "a", config(), vision=True) / "model.safetensors")
    part = read_all(write_random_checkpoint(tmp_path / "b", config(), mtp=False) / "model.safetensors")
    assert set(part) < set(whole)
    assert all(np.array_equal(part[name].array, whole[name].array) for name in part)


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_dtypes_are_the_official_ones_or_all_float32(tmp_path, dtype):
    checkpoint = open_checkpoint(write_random_checkpoint(tmp_path, text_config(), dtype))
    for name, row in weights_table(parse_config(text_config())).items():
        stored = "F32" if dtype == "f32" or row.dtype == "fp32" else "BF16"
        assert checkpoint.read(name).dtype == stored


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_values_by_role(tmp_path, dtype):
    checkpoint = open_checkpoint(write_random_checkpoint(tmp_path, text_config(tied=False, **BIG), dtype))
    for name, row in checkpoint.table.items():
        values = checkpoint.read(name).float32().astype(np.float64)
        if row.role in ("matrix", "gate", "embedding"):
            assert values.std() == pytest.approx(row.shape[-1] ** -0.5, rel=0.03), name
            assert abs(values.mean()) < 0.05 * values.std(), name
        elif row.role in ("norm", "norm1p"):
            assert np.abs(values - (row.role == "norm")).max() < 0.5, name
        elif row.role == "conv":
            assert 0.4 < np.abs(values).max() <= 0.5, name
        elif name.endswith("A_log"):
            assert (np.exp(values) >= 1).all(), name
            assert (np.exp(values) <= 16.1).all(), name
        else:
            step = np.log1p(np.exp(values))
            assert ((step > 0.0009) & (step < 0.11)).all(), name


@pytest.mark.parametrize(("size", "official_bytes"), [("0.8b", 1_746_942_600), ("2b", 4_548_221_488)])
def test_our_layout_of_an_official_checkpoint_has_the_official_file_size(tmp_path, size, official_bytes):
    """Names, shapes, dtypes and the header's text agree with the published files to the byte; nothing is written."""
    layout = {
        name: ("F32" if row.dtype == "fp32" else "BF16", row.shape)
        for name, row in weights_table(parse_config(official(size))).items()
    }
    header, begin = header_bytes(layout, None)
    last = max(begin, key=lambda name: begin[name])
    assert begin[last] + byte_length(*layout[last]) == official_bytes
    assert len(header) == min(begin.values())


def test_an_unknown_dtype(tmp_path):
    with pytest.raises(ValueError, match="dtype is 'q8'; 'bf16' and 'f32' exist"):
        write_random_checkpoint(tmp_path, config(), "q8")
