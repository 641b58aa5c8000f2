"""Broken and hostile GGUF files: each gives one sentence, before memory is taken for what it claims."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from ingot.store import open_checkpoint
from ingot.store.gguf import COUNT_LIMIT, ELEMENTS_LIMIT, GGUFFile
from tests.store import gguf_files as files
from tests.store.store_files import config, make_checkpoint

HUGE = 2**63
ONE = {"w": (files.F32, (2, 3), bytes(24))}
ARCHITECTURE = files.entry("general.architecture", files.STRING, "qwen35")


def head(tensors=0, entries=1, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def meta(*entries):
    """A file of an architecture and these metadata, without tensors."""
    return head(entries=1 + len(entries)) + ARCHITECTURE + b"".join(entries)


def of(*tensors, data=bytes(64), metadata=b"", count=None):
    """A file of these tensor entries."""
    start = head(len(tensors) if count is None else count, 1 + (metadata != b"")) + ARCHITECTURE + metadata
    start += b"".join(tensors)
    return start.ljust(-(-len(start) // 32) * 32, b"\0") + data


def tensor(name="w", kind=files.F32, shape=(2, 3), offset=0):
    return files.tensor_entry(name, kind, shape, offset)


def array(kind, count, raw=b""):
    return files.text("k") + struct.pack("<IIQ", files.ARRAY, kind, count) + raw


RAW = [
    ("empty", b"", "is empty"),
    ("text", b"hello, world", "is not a GGUF file: it does not begin with 'GGUF'"),
    ("pointer", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ("web page", b"<!DOCTYPE html>", "is a web page, not the weights"),
    ("magic alone", b"GGUF", "is truncated: it has 4 bytes"),
    ("version 1", head(version=1), "is GGUF version 1; versions 2 and 3 are read"),
    ("version 4", head(version=4), "is GGUF version 4; versions 2 and 3 are read"),
    ("version 0", head(version=0), "is GGUF version 0"),
    ("big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 1), "is a big-endian GGUF file; little-endian ones are read"),
    ("no counts", head()[:12], "is truncated in the number of tensors, at byte 8 of 12"),
    ("half a count", head()[:20], "is truncated in the number of metadata entries"),
    ("many tensors", head(HUGE), f"claims {HUGE} tensors; at most {COUNT_LIMIT} are read"),
    ("many entries", head(0, HUGE), f"claims {HUGE} metadata entries; at most {COUNT_LIMIT} are read"),
    ("no entries behind", head(0, 5), "is truncated in key 0 of 5, at byte 24 of 24"),
    ("key of 8 EiB", head() + struct.pack("<Q", HUGE) + b"k", f"key 0 of 1 has {HUGE} bytes; at most 1024 are read"),
    ("key cut", head() + struct.pack("<Q", 9) + b"k", "is truncated in key 0 of 1, at byte 32 of 33"),
    ("key not UTF-8", meta(files.entry("", files.BOOL, True).replace(files.text(""), files.text(b"\xff\xfe"))),
     "key 1 of 2 is not UTF-8 (byte 0): the file is damaged"),
    ("key twice", meta(ARCHITECTURE), "the metadata have the key 'general.architecture' twice"),
    ("unknown value type", meta(files.text("k") + struct.pack("<I", 13)), "metadata 'k' has the type 13, which the"),
    ("no value", meta(files.text("k") + struct.pack("<I", files.U64)), "is truncated in metadata 'k', at byte"),
    ("text of 8 EiB", meta(files.text("k") + struct.pack("<IQ", files.STRING, HUGE)), "metadata 'k' has 9223372036854"),
    ("text cut", meta(files.text("k") + struct.pack("<IQ", files.STRING, 99)), "is truncated in metadata 'k'"),
    ("text not UTF-8", meta(files.entry("k", files.STRING, b"a\x80")), "metadata 'k' is not UTF-8 (byte 1)"),
    ("bool of 2", meta(files.text("k") + struct.pack("<IB", files.BOOL, 2)), "metadata 'k' is a bool of value 2"),
    ("bools of 2", meta(array(files.BOOL, 3, b"\0\1\2")), "metadata 'k' holds a bool of value 2; 0 and 1 exist"),
    ("array of arrays", meta(array(files.ARRAY, 1)), "metadata 'k' is an array of arrays, which is not read"),
    ("array of type 99", meta(array(99, 1)), "metadata 'k' is an array of type 99, which does not exist"),
    ("array of 2**63", meta(array(files.U64, HUGE)), f"the arrays have {HUGE} elements; at most {ELEMENTS_LIMIT} are"),
    ("array cut", meta(array(files.U64, 9, bytes(8))), "is truncated in metadata 'k'"),
    ("texts cut", meta(array(files.STRING, 1000)), "is truncated in metadata 'k', which claims 1000 texts"),
    ("texts too long", meta(array(files.STRING, 2, files.text("a") + struct.pack("<Q", HUGE))), "behind 1 of 2 texts"),
    ("texts overflow", meta(array(files.STRING, 2, struct.pack("<QQ", 2**64 - 1, 1))), "behind 0 of 2 texts"),
    ("arrays together", meta(*[files.text(f"k{i}") + struct.pack("<IIQ", files.ARRAY, 0, 2**23) + bytes(2**23)
                               for i in range(3)]), f"the arrays have {3 * 2**23} elements; at most {ELEMENTS_LIMIT}"),
    ("no architecture", head(entries=0), "architecture is None; Ingot reads 'qwen35', the dense Qwen3.5 models"),
    ("llama", head() + files.entry("general.architecture", files.STRING, "llama"), "architecture is 'llama'; Ingot re"),
    ("mixture of experts", head() + files.entry("general.architecture", files.STRING, "qwen35moe"), "is 'qwen35moe'"),
    ("architecture is a number", head() + files.entry("general.architecture", files.U32, 5), "architecture is 5; Ingo"),
    ("vision tower", head() + files.entry("general.architecture", files.STRING, "clip"),
     "is the vision tower of a model (mmproj), not the model\nhint: give the model's own file"),
    ("alignment 0", of(metadata=files.entry("general.alignment", files.U32, 0)), "general.alignment is 0; a power of"),
    ("alignment 24", of(metadata=files.entry("general.alignment", files.U32, 24)), "general.alignment is 24; a power"),
    ("alignment of text", of(metadata=files.entry("general.alignment", files.STRING, "x")), "general.alignment is 'x'"),
    ("alignment 2**31", of(metadata=files.entry("general.alignment", files.U32, 2**31)), "general.alignment is 214748"),
    ("tensor missing", of(tensor(), count=2, data=b"")[:-13], "is truncated in the name of tensor 1 of 2"),
    ("tensor twice", of(tensor(), tensor()), "there are two tensors named 'w'"),
    ("no dimensions", of(tensor(shape=())), "tensor 'w' has 0 dimensions; 1 to 4 are allowed"),
    ("five dimensions", of(tensor(shape=(1, 1, 1, 2, 3))), "tensor 'w' has 5 dimensions; 1 to 4 are allowed"),
    ("2**32 dimensions", of(files.text("w") + struct.pack("<I", 2**32 - 1)), "tensor 'w' has 4294967295 dimensions"),
    ("size 0", of(tensor(shape=(0, 3))), "tensor 'w' has shape [0, 3]; sizes are positive"),
    ("larger than any file", of(tensor(shape=(2**40, 2**40))), "tensor 'w' has shape [1099511627776, 1099511627776]"),
    ("unread type", of(tensor(kind=21)), "tensor 'w' is IQ3_S; F32, BF16, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K"),
    ("integers", of(tensor(kind=26)), "tensor 'w' is I32; F32, BF16, F16, Q4_0"),
    ("removed type", of(tensor(kind=4)), "tensor 'w' is of the unknown type 4; F32, BF16"),
    ("unknown type", of(tensor(kind=2**32 - 1)), "tensor 'w' is of the unknown type 4294967295"),
    ("broken rows", of(tensor(kind=files.Q4_K, shape=(2, 96))), "has rows of 96 weights; Q4_K comes in blocks of 256"),
    ("offset between", of(tensor(offset=8)), "tensor 'w' has offset 8, which is not a multiple of the alignment, 32"),
    ("offset far", of(tensor(offset=2**62)), "tensor 'w' ends 4611686018427387"),
    ("truncated", of(tensor(shape=(5, 4)), data=bytes(79)), "tensor 'w' ends 1 bytes behind the end of the file: it i"),
    ("overlap", of(tensor("a", shape=(9,)), tensor("b", offset=32), data=bytes(96)), "'b' overlaps tensor 'a' by 4 by"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), [row[1:] for row in RAW], ids=[row[0] for row in RAW])
def test_a_broken_file_is_refused_in_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError) as caught:
        open_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert sentence in str(caught.value)
    assert peak < 40 << 20  # the arrays that are there are read; what is only claimed is not allocated


def test_every_cut_of_a_file_is_refused(tmp_path):
    """From any byte on, what is left is an error in a sentence, never a crash or a shorter model."""
    raw = config(vocab_size=400)
    whole = files.gguf(files.text_metadata(raw["text_config"]) | {"k": [True, False]}, ONE)
    path = tmp_path / "m.gguf"
    end = len(whole) - 8  # the last 8 bytes are filler
    cuts = [*range(400), *range(400, end, 37), end - 1]
    for length in cuts:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError):
            GGUFFile(path, "qwen35")
    path.write_bytes(whole)
    assert GGUFFile(path, "qwen35").names == ("w",)


def test_versions_2_and_3_are_the_same_here(tmp_path):
    path = tmp_path / "m.gguf"
    for version in (2, 3):
        path.write_bytes(files.gguf({"general.architecture": "qwen35"}, ONE).replace(
            struct.pack("<I", 3), struct.pack("<I", version), 1))  # fmt: skip
        assert GGUFFile(path, "qwen35").info("w").shape == (2, 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return model_and_tower(tmp_path_factory.mktemp("hf"))


def model_and_tower(place):
    """Metadata and tensors of a model that opens, and of its vision tower."""
    raw = config(vocab_size=400)
    checkpoint = make_checkpoint(place, raw)
    text = files.text_metadata(raw["text_config"]), files.text_tensors(checkpoint, raw)
    return text, (files.vision_metadata(raw["vision_config"]), files.vision_tensors(checkpoint))


Q = "qwen35."
LAYER = "blk.0."
MODEL = [  # changes of metadata (None removes), changes of tensors, the sentence
    ("another kind of file", {"general.type": "adapter"}, {}, "general.type is 'adapter'; a 'model' is needed"),
    ("no block_count", {Q + "block_count": None}, {}, "metadata 'qwen35.block_count' is missing"),
    ("block_count of text", {Q + "block_count": "3"}, {}, "metadata 'qwen35.block_count' is '3'; int is needed"),
    ("heads by layer", {Q + "attention.head_count": [4, 4, 4]}, {}, "'qwen35.attention.head_count' is array"),
    ("a bool for a number", {Q + "context_length": True}, {}, "'qwen35.context_length' is True; int is needed"),
    ("unknown key", {Q + "attention.new": 1}, {}, "qwen35.attention.new is not a key Ingot knows, so it cannot tell"),
    ("deepstack", {Q + "n_deepstack_layers": 3}, {}, "has deepstack layers; qwen35 has none"),
    ("experts", {Q + "expert_count": 8}, {}, "qwen35.expert_count is not a key Ingot knows"),
    ("two head sizes", {Q + "attention.value_length": 8}, {}, "keys of 16 and values of 8 dimensions"),
    ("heads do not divide", {Q + "ssm.inner_size": 181}, {}, "ssm.inner_size is 181, which 9 value heads do not divid"),
    ("no value heads", {Q + "ssm.time_step_rank": 0}, {}, "which 0 value heads do not divide"),
    ("no key heads", {Q + "ssm.group_count": 0}, {}, "linear_num_key_heads is 0; it must be positive"),
    ("odd groups", {Q + "ssm.group_count": 2}, {}, "linear_num_value_heads is 9, which linear_num_key_heads = 2 does"),
    ("NaN epsilon", {Q + "attention.layer_norm_rms_epsilon": float("nan")}, {}, "epsilon' is nan; a finite number is"),
    ("infinite theta", {Q + "rope.freq_base": float("inf")}, {}, "'qwen35.rope.freq_base' is inf; a finite number"),
    ("two sections", {Q + "rope.dimension_sections": [1, 1]}, {}, "dimension_sections is [1, 1]; three counts and a 0"),
    ("a fourth section", {Q + "rope.dimension_sections": [1, 1, 0, 1]}, {}, "dimension_sections is [1, 1, 0, 1]"),
    ("yarn", {Q + "rope.scaling.type": "yarn"}, {}, "metadata 'qwen35.rope.scaling.factor' is missing"),
    ("another longer context", {Q + "rope.scaling.type": "longrope"}, {}, "rope_type is 'longrope'"),
    ("layers that are not there", {Q + "block_count": 9}, {}, "recurrent_layers has 3 entries; block_count is 9"),
    ("more MTP than blocks", {Q + "nextn_predict_layers": 4}, {}, "num_hidden_layers is -1"),
    ("two MTP layers", {Q + "nextn_predict_layers": 2}, {}, "mtp_num_hidden_layers is 2; 0 and 1 exist"),
    ("2**32 layers", {Q + "block_count": 2**32 - 1, Q + "attention.recurrent_layers": None}, {}, "there are 42 te"),
    ("no embedding", {}, {"token_embd.weight": None}, "tensor 'token_embd.weight' is missing"),
    ("flat embedding", {}, {"token_embd.weight": (0, (8,), bytes(32))}, "'token_embd.weight' has shape [8]; a table o"),
    ("no norm", {}, {"output_norm.weight": None}, "tensor 'output_norm.weight' of the text model is missing"),
    ("extra", {}, {"blk.0.attn_rot": (0, (8,), bytes(32))}, "tensor 'blk.0.attn_rot' (F32 [8]) is not part of the "
     "model that its metadata describes\nhint: pass accept=['blk.0.attn_rot']"),
    ("Hugging Face's name", {}, {"lm_head.weight": (0, (8,), bytes(32))}, "tensor 'lm_head.weight' (F32 [8]) is not p"),
    ("turned", {}, {LAYER + "ffn_up.weight": (0, (40, 56), bytes(8960))}, "has shape [40, 56]; its metadata asks for"),
    ("convolution not squeezed", {}, {LAYER + "ssm_conv1d.weight": (0, (4, 252), bytes(4032))}, "has shape [4, 1, 252"),
    ("positive decay", {}, {LAYER + "ssm_a": (0, (9,), struct.pack("<9f", *[-1.0] * 8, 0))}, "'ssm_a' of 'model.lang"),
    ("NaN", {}, {LAYER + "ssm_norm.weight": (0, (20,), struct.pack("<20f", *[1.0] * 19, np.nan))}, "holds nan at [19]"),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "tensors", "sentence"), [row[1:] for row in MODEL], ids=[row[0] for row in MODEL])
def test_a_model_that_does_not_fit_together_is_refused(tmp_path, whole, metadata, tensors, sentence):
    path = tmp_path / "m.gguf"
    path.write_bytes(changed(whole[0], metadata, tensors))
    with pytest.raises(ValueError) as caught:
        read_whole(path)
    assert str(path) in str(caught.value)
    assert sentence in str(caught.value)


def read_whole(path):
    checkpoint = open_checkpoint(path)
    return [checkpoint.read(name) for name in checkpoint.table]


def changed(model, metadata, tensors):
    both = [model[0] | metadata, model[1] | tensors]
    return files.gguf(*({k: v for k, v in part.items() if v is not None} for part in both))


def test_yarn_is_read(tmp_path, whole):
    path, scaling = tmp_path / "m.gguf", {"type": "yarn", "factor": 4.0, "original_context_length": 96}
    path.write_bytes(changed(whole[0], {f"{Q}rope.scaling.{key}": value for key, value in scaling.items()}, {}))
    text = open_checkpoint(path).config.text
    assert (text.rope_parameters.rope_type, text.rope_parameters.factor, text.context) == ("yarn", 4.0, 384)


def test_accept_tolerates_what_it_names(tmp_path, whole):
    path = tmp_path / "m.gguf"
    path.write_bytes(changed(whole[0], {Q + "attention.new": 1}, {"blk.0.attn_rot": (0, (8,), bytes(32))}))
    assert open_checkpoint(path, accept=["qwen35.attention.new", "blk.*.attn_rot"]).has_mtp


V = "clip.vision."
TOWER = [
    ("another projector", {"clip.projector_type": "qwen2vl_merger"}, {}, "clip.projector_type is 'qwen2vl_merger'; th"),
    ("audio", {"clip.has_audio_encoder": True}, {}, "is not a vision tower alone"),
    ("SiLU", {"clip.use_silu": True}, {}, "its activation is not GELU"),
    ("deepstack", {V + "is_deepstack_layers": [True]}, {}, "has deepstack layers; the tower of Qwen3.5 has none"),
    ("two means", {V + "image_mean": [0.5, 0.5]}, {}, "image_mean is [0.5, 0.5]; three positive numbers are needed"),
    ("no deviation", {V + "image_std": [0.5, 0.0, 0.5]}, {}, "image_std is [0.5, 0.0, 0.5]; three positive"),
    ("2**31 blocks", {V + "block_count": 2**31 - 1}, {}, "clip.vision.block_count is 2147483647, but there are 22 te"),
    ("unknown key", {V + "window_size": 7}, {}, "clip.vision.window_size is not a key Ingot knows"),
    ("no positions", {}, {"v.position_embd.weight": None}, "tensor 'v.position_embd.weight' is missing"),
    ("half a tower", {}, {"v.post_ln.bias": None}, "tensor 'v.post_ln.bias' of the vision model is missing"),
    ("frames apart", {}, {"v.patch_embd.weight.1": (0, (24, 3, 8, 4), bytes(9216))}, "'v.patch_embd.weight' has shape"),
    ("a model", {"general.architecture": "qwen35"}, {}, "architecture is 'qwen35'; the mmproj file of a vision tower"),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "tensors", "sentence"), [row[1:] for row in TOWER], ids=[row[0] for row in TOWER])
def test_a_vision_tower_that_does_not_fit_is_refused(tmp_path, whole, metadata, tensors, sentence):
    model, tower = tmp_path / "m.gguf", tmp_path / "mmproj.gguf"
    model.write_bytes(files.gguf(*whole[0]))
    tower.write_bytes(changed(whole[1], metadata, tensors))
    with pytest.raises(ValueError) as caught:
        open_checkpoint(model)
    assert sentence in str(caught.value)
    assert ".gguf: " in str(caught.value)
