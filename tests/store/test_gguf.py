"""A GGUF of a checkpoint is that checkpoint: configuration, weights, files that belong together."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ingot.store import glance, open_checkpoint, resolve
from ingot.store.gguf import GGUFFile
from ingot.store.gguf_names import gguf_name, value_head_order
from tests.store import gguf_files as files
from tests.store.store_files import config, make_checkpoint
from tests.tolerance import LOG_OF_EXP

LAYERS = ["linear_attention", "full_attention", "linear_attention"]


def raw_config(tied=True, **text):
    sizes = {"vocab_size": 400, "num_hidden_layers": 3, "layer_types": LAYERS, "num_attention_heads": 4} | text
    return config(tied, **sizes)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A random checkpoint with 3 key and 9 value heads, and its GGUF and mmproj."""
    place, raw = tmp_path_factory.mktemp("pair"), raw_config()
    checkpoint = make_checkpoint(place / "hf", raw)
    model, tower = place / "gguf" / "model.gguf", place / "gguf" / "mmproj-model.gguf"
    model.parent.mkdir()
    model.write_bytes(files.gguf(files.text_metadata(raw["text_config"]), files.text_tensors(checkpoint, raw)))
    tower.write_bytes(files.gguf(files.vision_metadata(raw["vision_config"]), files.vision_tensors(checkpoint)))
    return checkpoint, model, tower


def without_ids(found):
    """A configuration without the ids of the vision tokens, which the random config.json does not give."""
    return found.text, found.vision, found.text_only, found.tie_word_embeddings


def check_same(checkpoint, other):
    for name in checkpoint.table:
        want, found = checkpoint.read(name).float32(), other.read(name).float32()
        assert found.shape == want.shape, name
        if name.endswith("A_log"):
            np.testing.assert_allclose(found, want, rtol=0, atol=LOG_OF_EXP, err_msg=name)
        else:
            assert np.array_equal(1 + found, 1 + want) if "norm" in name else np.array_equal(found, want), name


def test_a_gguf_has_the_checkpoints_configuration_and_weights(pair):
    checkpoint, model, _ = pair
    hf, gguf = open_checkpoint(checkpoint), open_checkpoint(model)
    assert without_ids(gguf.config) == without_ids(hf.config)
    assert list(gguf.table) == list(hf.table)
    assert gguf.has_mtp
    assert gguf.has_vision
    assert gguf.dtype == "BF16"
    check_same(hf, gguf)


@pytest.mark.parametrize("kind", [files.F32, files.F16, files.BF16])
@pytest.mark.parametrize("heads", [(2, 2), (2, 8), (1, 5), (3, 6)])
def test_value_heads_come_back_in_their_order(tmp_path, kind, heads):
    raw = raw_config(tied=False, linear_num_key_heads=heads[0], linear_num_value_heads=heads[1])
    checkpoint = make_checkpoint(tmp_path / "hf", raw, vision=False, mtp=False)
    raw["text_config"]["mtp_num_hidden_layers"] = 0
    path = tmp_path / "model.gguf"
    tensors = files.text_tensors(checkpoint, raw, kind)
    path.write_bytes(files.gguf(files.text_metadata(raw["text_config"]), tensors))
    found, hf = open_checkpoint(path), open_checkpoint(checkpoint)
    assert found.dtype == {0: "F32", 1: "F16", 30: "BF16"}[kind]
    for name, row in hf.table.items():
        want = hf.read(name).float32()
        if kind == files.F16 and row.role in ("matrix", "gate", "embedding"):
            want = want.astype(np.float16).astype(np.float32)
        if not name.endswith("A_log"):
            assert np.array_equal(1 + found.read(name).float32(), 1 + want), name


def test_every_name_is_another_and_none_is_left(pair):
    checkpoint, model, tower = pair
    hf = open_checkpoint(checkpoint)
    names = [gguf_name(name, hf.config.prefix, 3) for name in hf.table]
    assert len(set(names)) == len(names)
    held = {*GGUFFile(model, "qwen35").names, *GGUFFile(tower, "clip").names}
    assert held - set(names) == {"v.patch_embd.weight.1"}
    assert set(names) <= held


def test_the_order_of_heads_is_a_permutation_that_tiling_undoes():
    order = value_head_order(3, 12)
    assert sorted(order) == list(range(12))
    grouped = np.arange(12)
    assert np.array_equal(files.tiled(grouped, 0, 0, 3, 1)[order], grouped)


def test_quantised_tensors_are_their_dequantised_values_in_the_checkpoints_order(tmp_path):
    rope = config()["text_config"]["rope_parameters"] | {"mrope_section": [3, 3, 2]}
    raw = raw_config(
        hidden_size=256, intermediate_size=512, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_value_head_dim=64, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        mtp_num_hidden_layers=0, rope_parameters=rope,
    )  # fmt: skip
    del raw["vision_config"]
    checkpoint = make_checkpoint(tmp_path / "hf", raw, vision=False)
    tensors = files.text_tensors(checkpoint, raw)
    kinds = list(files.BLOCK)
    plain, number = dict(tensors), 0
    for name, (kind, shape, _) in tensors.items():
        if kind == files.BF16:
            number += 1
            quantised = kinds[number % len(kinds)]
            content = files.blocks(shape, quantised, seed=number)
            tensors[name] = quantised, shape, content
            plain[name] = files.stored(dequantised(content, quantised, shape), files.F32)
    assert number > len(kinds)
    metadata = files.text_metadata(raw["text_config"])
    found = []
    for name, content in (("q.gguf", tensors), ("f.gguf", plain)):
        (tmp_path / name).write_bytes(files.gguf(metadata, content))
        found.append(open_checkpoint(tmp_path / name))
    assert found[0].config == found[1].config
    assert found[0].dtype.startswith("Q")
    for name in found[0].table:
        assert np.array_equal(found[0].read(name).float32(), found[1].read(name).float32()), name


def dequantised(content, kind, shape):
    from ingot.store.blocks import dequantise

    name = next(name for name, number in files.KINDS.items() if number == kind)
    return dequantise(np.frombuffer(content, np.uint8).reshape(shape[0], -1), name)


def test_reading_leaves_nothing_in_memory_and_views_are_read_only(pair):
    found = open_checkpoint(pair[1])
    view = found.read("model.language_model.embed_tokens.weight")
    assert not view.array.flags.writeable
    assert not view.array.flags.owndata
    found.release("model.language_model.embed_tokens.weight")
    assert np.array_equal(view.array, found.read("model.language_model.embed_tokens.weight").array)


# which files belong together


def test_a_directory_with_one_model_opens_as_its_file(pair):
    _, model, _ = pair
    assert resolve(str(model)) == model
    assert resolve(model.parent) == model.parent
    assert open_checkpoint(model.parent).path == open_checkpoint(model).path == model
    assert glance(model.parent) == glance(model)


def test_two_models_in_a_directory_are_not_chosen_between(pair, tmp_path):
    for name in ("a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-a.gguf"):
        (tmp_path / name).write_bytes(pair[1].read_bytes())
    with pytest.raises(ValueError, match=r"holds 2 GGUF models: a-Q4_K_M.gguf, a-Q8_0.gguf\nhint: give one"):
        open_checkpoint(tmp_path)


def test_safetensors_win_over_a_gguf_beside_them(tmp_path, pair):
    made = make_checkpoint(tmp_path)
    (tmp_path / "model.gguf").write_bytes(pair[1].read_bytes())
    assert open_checkpoint(tmp_path).embedded is None
    assert open_checkpoint(made / "model.gguf").embedded is not None


def test_the_vision_tower_is_optional_and_can_be_named(pair, tmp_path):
    _, model, tower = pair
    alone = tmp_path / "model.gguf"
    alone.write_bytes(model.read_bytes())
    assert not open_checkpoint(alone).has_vision
    assert open_checkpoint(alone, mmproj=tower).has_vision


def test_of_several_vision_towers_none_is_chosen(pair, tmp_path):
    for name in ("model.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf"):
        (tmp_path / name).write_bytes((pair[2] if name.startswith("mmproj") else pair[1]).read_bytes())
    with pytest.warns(UserWarning, match=r"pictures are not seen: mmproj-BF16.gguf, mmproj-F16.gguf are beside"):
        assert not open_checkpoint(tmp_path).has_vision


def test_a_vision_tower_of_another_model_is_left_with_a_warning_and_refused_when_named(pair, tmp_path):
    checkpoint, model, _ = pair
    raw = raw_config()
    metadata = files.vision_metadata(raw["vision_config"]) | {"clip.vision.projection_dim": 48}
    (tmp_path / "model.gguf").write_bytes(model.read_bytes())
    other = tmp_path / "mmproj-other.gguf"
    other.write_bytes(files.gguf(metadata, files.vision_tensors(checkpoint)))
    with pytest.warns(
        UserWarning, match=r"mmproj-other.gguf is of another model \(it gives 48 features, 40 are needed"
    ):
        assert not open_checkpoint(tmp_path / "model.gguf").has_vision
    with pytest.raises(ValueError, match="out_hidden_size is 48; it must equal hidden_size = 40"):
        open_checkpoint(tmp_path / "model.gguf", mmproj=other)


def test_mmproj_is_for_gguf_models(pair):
    with pytest.raises(ValueError, match="only a GGUF model has its vision tower in a file of its own"):
        open_checkpoint(pair[0], mmproj=pair[2])


def split(pair, place, change=lambda number, metadata: metadata):
    """The model in three parts: metadata alone, then half of the tensors each."""
    raw = raw_config()
    tensors = list(files.text_tensors(pair[0], raw).items())
    parts = [{}, dict(tensors[::2]), dict(tensors[1::2])]
    for number, part in enumerate(parts):
        own = files.text_metadata(raw["text_config"]) if number == 0 else {}
        own |= {"split.no": number, "split.count": 3, "split.tensors.count": len(tensors)}
        name = f"m-{number + 1:05d}-of-00003.gguf"
        (place / name).write_bytes(files.gguf(change(number, own), part))
    return place / "m-00001-of-00003.gguf"


def test_a_split_model_opens_by_any_part_and_by_its_directory(pair, tmp_path):
    first = split(pair, tmp_path)
    whole = open_checkpoint(pair[1])
    for path in (first, tmp_path / "m-00003-of-00003.gguf", tmp_path):
        found = open_checkpoint(path)
        assert found.path == first
        for name in found.table:
            assert np.array_equal(found.read(name).float32(), whole.read(name).float32())


def test_a_missing_or_foreign_part_is_named(pair, tmp_path):
    first = split(pair, tmp_path)
    (tmp_path / "m-00002-of-00003.gguf").rename(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"m-00002-of-00003.gguf: this part of the model is missing"):
        open_checkpoint(first)
    split(pair, tmp_path, lambda number, own: own | ({"split.no": 7} if number == 1 else {}))
    with pytest.raises(ValueError, match=r"m-00002-of-00003.gguf: says that it is part 7 \(from 0\) of 3"):
        open_checkpoint(first)
    (tmp_path / "renamed.gguf").write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"renamed.gguf: is one of 3 parts, which must be named"):
        open_checkpoint(tmp_path / "renamed.gguf")


def test_what_a_file_does_not_say_is_as_in_older_files(pair, tmp_path):
    """Older converters wrote the interval alone, and no count of MTP layers."""
    raw = raw_config(num_hidden_layers=4, layer_types=None, full_attention_interval=3, mtp_num_hidden_layers=0)
    del raw["text_config"]["layer_types"]
    checkpoint = make_checkpoint(tmp_path / "hf", raw, vision=False)
    sizes = raw["text_config"] | {"layer_types": []}
    metadata = files.text_metadata(sizes) | {"qwen35.full_attention_interval": 3}
    del metadata["qwen35.attention.recurrent_layers"]
    path = tmp_path / "model.gguf"
    path.write_bytes(files.gguf(metadata, files.text_tensors(checkpoint, raw)))
    assert open_checkpoint(path).config.text == open_checkpoint(checkpoint).config.text


def test_a_file_is_read_once_and_again_when_it_changed(pair, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(pair[1].read_bytes())
    name = "model.language_model.norm.weight"
    first, again = open_checkpoint(path), open_checkpoint(path)
    assert first._file(name).file is again._file(name).file
    other = tmp_path / "other"
    other.write_bytes(pair[1].read_bytes())
    other.replace(path)
    assert open_checkpoint(path)._file(name).file is not first._file(name).file


def test_no_warning_is_given_for_what_is_whole(pair):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_checkpoint(pair[1])
