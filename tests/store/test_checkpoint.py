"""Checkpoint directories that open, and what they hold then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ingot.spec import parse_config, weights_table
from ingot.store import Checkpoint, open_checkpoint
from tests.store.store_files import config, make_checkpoint, normal, read_all, rewrite, shard, text_config, write_index

EMBEDDING = "model.language_model.embed_tokens.weight"
PROJ = "model.language_model.layers.0.mlp.up_proj.weight"


def holds_the_same(left: Checkpoint, right: Checkpoint) -> bool:
    return left.table == right.table and all(
        left.read(name).dtype == right.read(name).dtype
        and np.array_equal(left.read(name).array, right.read(name).array)
        for name in left.table
    )


def test_a_whole_checkpoint(tmp_path):
    checkpoint = open_checkpoint(make_checkpoint(tmp_path))
    assert checkpoint.config == parse_config(config())
    assert checkpoint.table == weights_table(checkpoint.config)
    assert (checkpoint.has_mtp, checkpoint.has_vision, checkpoint.dtype) == (True, True, "BF16")
    tensor = checkpoint.read(PROJ)
    assert (tensor.dtype, tensor.shape, tensor.array.dtype) == ("BF16", (56, 40), np.uint16)
    assert checkpoint.info(PROJ).shape == (56, 40)
    checkpoint.release(PROJ)
    assert np.array_equal(tensor.array, checkpoint.read(PROJ).array)
    assert checkpoint.path == tmp_path


def test_a_path_may_be_text(tmp_path):
    make_checkpoint(tmp_path)
    assert open_checkpoint(str(tmp_path)).path == tmp_path


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), True),
        (("model.safetensors-00001-of-00002.safetensors", "model.safetensors-00002-of-00002.safetensors"), True),
        (("model.safetensors-00001-of-00001.safetensors",), True),
        (("model.safetensors-00001-of-00001.safetensors",), False),
        (("x.safetensors", "Ünicode name.safetensors", "z.safetensors"), True),
        (("x.safetensors", "y.safetensors"), False),
        (("model.safetensors",), True),
    ],
)
def test_sharded_or_single_it_is_the_same_checkpoint(tmp_path, names, index):
    whole = open_checkpoint(make_checkpoint(tmp_path / "whole"))
    shard(make_checkpoint(tmp_path / "shards"), names, index)
    assert holds_the_same(whole, open_checkpoint(tmp_path / "shards"))


def test_without_mtp_or_vision_tensors_the_rest_opens(tmp_path):
    for mtp in (False, True):
        for vision in (False, True):
            checkpoint = open_checkpoint(make_checkpoint(tmp_path / f"{mtp}{vision}", mtp=mtp, vision=vision))
            assert (checkpoint.has_mtp, checkpoint.has_vision) == (mtp, vision)
            components = {weight.component for weight in checkpoint.table.values()}
            assert components == {"text"} | ({"mtp"} if mtp else set()) | ({"vision"} if vision else set())


def test_a_config_without_mtp_or_vision_has_none(tmp_path):
    raw = config(mtp_num_hidden_layers=0)
    del raw["vision_config"]
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, raw))
    assert (checkpoint.has_mtp, checkpoint.has_vision) == (False, False)


def test_text_only_names(tmp_path):
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, text_config()))
    assert checkpoint.config.text_only
    assert checkpoint.read("model.layers.0.mlp.up_proj.weight").shape == (56, 40)
    assert (checkpoint.has_mtp, checkpoint.has_vision) == (True, False)


@pytest.mark.parametrize(("make", "other"), [(config, text_config), (text_config, config)])
def test_text_weights_under_the_other_kind_of_config(tmp_path, make, other):
    """A text-only export keeps a multimodal config.json, or a text config meets multimodal names."""
    raw = other()
    make_checkpoint(tmp_path / "a", make(), vision=False)
    (tmp_path / "a" / "config.json").write_text(json.dumps(raw))
    make_checkpoint(tmp_path / "b", other(), vision=False)
    opened, named = open_checkpoint(tmp_path / "a"), open_checkpoint(tmp_path / "b")
    assert opened.table == named.table
    source = parse_config(make()).prefix
    for name in opened.table:
        if name.startswith(named.config.prefix):
            stored = source + name.removeprefix(named.config.prefix)
            assert np.array_equal(opened.read(name).array, read_all(tmp_path / "a" / "model.safetensors")[stored].array)


def test_an_untied_head(tmp_path):
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, config(tied=False)))
    assert checkpoint.read("lm_head.weight").shape == (97, 40)
    assert not np.array_equal(checkpoint.read("lm_head.weight").array, checkpoint.read(EMBEDDING).array)


@pytest.mark.parametrize("make", [config, text_config])
def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tmp_path, make):
    make_checkpoint(tmp_path, make())
    name = f"{parse_config(make()).prefix}embed_tokens.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors[name]}))
    assert "lm_head.weight" not in open_checkpoint(tmp_path).table


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_any_floating_dtype_and_the_majority_is_reported(tmp_path, dtype):
    from ingot.store import tensor_of

    make_checkpoint(tmp_path, dtype="f32")
    assert open_checkpoint(tmp_path).dtype == "F32"
    matrices = {name for name, row in weights_table(parse_config(config())).items() if len(row.shape) > 1}
    rewrite(tmp_path, lambda tensors: tensors.update({n: tensor_of(tensors[n].float32(), dtype) for n in matrices}))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.dtype == dtype
    assert checkpoint.read(PROJ).dtype == dtype
    assert checkpoint.read("model.language_model.norm.weight").dtype == "F32"


def test_accepted_tensors_are_left_aside(tmp_path):
    make_checkpoint(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"extra.one": normal(3), "extra.two": normal(4)}))
    checkpoint = open_checkpoint(tmp_path, accept=["extra.*"])
    assert "extra.one" not in checkpoint.table
    with pytest.raises(ValueError, match=r"there is no weight 'extra\.one' in this checkpoint"):
        checkpoint.read("extra.one")


def test_accept_never_hides_a_weight_of_the_model(tmp_path):
    assert len(open_checkpoint(make_checkpoint(tmp_path), accept=["*"]).table) == len(
        weights_table(parse_config(config()))
    )


def test_accepted_config_keys_and_mtp_that_the_config_does_not_have(tmp_path):
    make_checkpoint(tmp_path)
    raw = config(mtp_num_hidden_layers=0) | {"colour": "blue"}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert not open_checkpoint(tmp_path, accept=["colour", "mtp.*"]).has_mtp


def test_files_that_the_index_does_not_name_are_not_read(tmp_path):
    make_checkpoint(tmp_path)
    shard(tmp_path)
    (tmp_path / "optimizer.safetensors").write_bytes(b"anything")
    (tmp_path / "old.gguf").write_bytes(b"anything")
    open_checkpoint(tmp_path)


def test_beside_model_safetensors_no_other_file_is_read(tmp_path):
    make_checkpoint(tmp_path)
    (tmp_path / "optimizer.safetensors").write_bytes(b"anything")
    assert open_checkpoint(tmp_path).has_mtp


def test_a_directory_of_links_as_the_hub_cache_has_them(tmp_path):
    make_checkpoint(tmp_path / "blobs")
    shard(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(Path("..") / "blobs" / path.name)
    assert open_checkpoint(tmp_path / "snapshot").has_mtp


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_a_weight_that_is_not_finite_is_named_with_its_place(tmp_path, value, dtype):
    from ingot.store import tensor_of

    make_checkpoint(tmp_path, dtype=dtype)
    stored = "BF16" if dtype == "bf16" else "F32"

    def spoil(tensors):
        values = tensors[PROJ].float32()
        values[7, 3] = value
        tensors[PROJ] = tensor_of(values, stored)

    rewrite(tmp_path, spoil)
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.read(EMBEDDING)
    with pytest.raises(ValueError) as caught:
        checkpoint.read(PROJ)
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'}: tensor {PROJ!r} holds {value} at [7, 3]; weights must be finite"
    )
    assert checkpoint.read(PROJ, check_finite=False).shape == (56, 40)


def test_both_model_safetensors_and_an_index_of_it(tmp_path):
    make_checkpoint(tmp_path)
    write_index(tmp_path, dict.fromkeys(read_all(tmp_path / "model.safetensors"), "model.safetensors"))
    assert open_checkpoint(tmp_path).has_mtp
