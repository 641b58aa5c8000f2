"""A table of checkpoint directories that are wrong, each with the sentence it must be answered with.

Every row starts from a whole multimodal checkpoint in one file, damages it, and expects an error that names the
directory or a file in it, and the tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.spec import parse_config, weights_table
from ingot.store import Tensor, open_checkpoint, save_safetensors
from tests.store.store_files import config, make_checkpoint, normal, rewrite, shard, text_config, write_index

P = "model.language_model."
UP = f"{P}layers.0.mlp.up_proj.weight"
CONV = f"{P}layers.0.linear_attn.conv1d.weight"
HEAD, EMBEDDING = "lm_head.weight", f"{P}embed_tokens.weight"
INDEX, FILE = "model.safetensors.index.json", "model.safetensors"


def change(function: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    return lambda directory: rewrite(directory, function)


def put(name: str, tensor: Tensor) -> Callable[[Path], None]:
    return change(lambda tensors: tensors.update({name: tensor}))


def drop(*names: str) -> Callable[[Path], None]:
    return change(lambda tensors: [tensors.pop(name) for name in names])


def rename(old: str, new: str) -> Callable[[Path], None]:
    """Replace a prefix of every name."""

    def renamed(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(old)]:
            tensors[new + name.removeprefix(old)] = tensors.pop(name)

    return change(renamed)


def configure(**changes: Any) -> Callable[[Path], None]:
    return lambda directory: (directory / "config.json").write_text(json.dumps(config() | changes)) and None


def text(**changes: Any) -> Callable[[Path], None]:
    return lambda directory: (directory / "config.json").write_text(json.dumps(config(**changes))) and None


def say(content: str | bytes, name: str = "config.json") -> Callable[[Path], None]:
    content = content.encode() if isinstance(content, str) else content
    return lambda directory: (directory / name).write_bytes(content) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def sharded(
    *then: Callable[[Path], Any], index: bool = True, names: tuple[str, ...] = ("a.safetensors", "b.safetensors")
):
    return steps(lambda directory: shard(directory, names, index), *then)


def steps(*functions: Callable[[Path], Any]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        for function in functions:
            function(directory)

    return apply


def only(name: str, content: bytes = b"") -> Callable[[Path], None]:
    """Take the weights away and leave this file instead."""
    return steps(remove(FILE), say(content, name))


def reindex(function: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        weight_map = json.loads((directory / INDEX).read_text())["weight_map"]
        function(weight_map)
        write_index(directory, weight_map)

    return apply


def point(shard: Any) -> Callable[[Path], None]:
    """Let the index put UP into this shard."""
    return sharded(reindex(lambda weight_map: weight_map.update({UP: shard})))


def swap(weight_map: dict[str, str]) -> None:
    weight_map[UP] = next(name for name in set(weight_map.values()) if name != weight_map[UP])


def third_file(directory: Path) -> None:
    save_safetensors(directory / "c.safetensors", [(UP, TWISTED)])


def truncate(name: str, by: int) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[:-by])

    return apply


NUMBERED = ("model.safetensors-00001-of-00002.safetensors", "model.safetensors-00002-of-00002.safetensors")
TWISTED = normal(40, 56, dtype="BF16")  # UP is [56, 40]
EMPTY_DIRECTORY = steps(remove(FILE), remove("config.json"))

BAD: list[tuple[str, Callable[[Path], Any], str]] = [
    # the directory
    ("empty directory", EMPTY_DIRECTORY, "holds no *.safetensors file (it holds nothing)"),
    ("no weights", remove(FILE), "holds no *.safetensors file (it holds config.json)"),
    ("no config", remove("config.json"), "holds no config.json, which tells the sizes of the model"),
    (
        "gguf",
        only("mmproj-F16.gguf"),
        "holds mmproj-F16.gguf, which is not a model by itself, but a vision tower or a later part of one\nhint: ",
    ),
    ("pickle", only("pytorch_model.bin"), "holds pytorch_model.bin, a PyTorch pickle, which can run code when read"),
    ("adapter", only("adapter_model.safetensors"), "holds a LoRA adapter, not a model\nhint: merge it"),
    ("adapter without weights", only("adapter_config.json"), "holds a LoRA adapter, not a model"),
    # config.json
    ("config is empty", say(""), "config.json is not valid JSON: Expecting value"),
    ("config is not JSON", say('{"model_type": '), "config.json is not valid JSON: Expecting value"),
    ("config is not UTF-8", say(b'{"\xff": 1}'), "config.json is not UTF-8 (byte 2)"),
    ("config is a list", say("[]"), "config.json: config is a list"),
    ("config is very deep", say("[" * 100_000), "config.json is not valid JSON: it nests too deeply"),
    ("other model", configure(model_type="llama"), "config.json: model_type is 'llama'"),
    ("no model type", configure(model_type=None), "config.json: model_type is None"),
    ("unknown key", configure(colour=3), "config.json: colour is not a key Ingot knows"),
    ("no text config", configure(text_config=None), "config.json: text_config is missing"),
    (
        "a size is missing",
        configure(text_config={"hidden_size": 40}),
        "config.json: text_config.num_hidden_layers is None",
    ),
    ("a size is text", text(hidden_size="40"), "config.json: text_config.hidden_size is '40'; int is needed"),
    # tensors against the table
    ("one missing", drop(UP), f"{FILE}: tensor {UP!r} of the text model is missing"),
    ("two missing", drop(UP, CONV), f"tensor {CONV!r} of the text model is missing (and 1 more of its 27)"),
    ("embedding missing", drop(EMBEDDING), f"tensor {EMBEDDING!r} of the text model is missing"),
    ("part of MTP missing", drop("mtp.fc.weight"), "tensor 'mtp.fc.weight' of the mtp model is missing"),
    ("part of vision missing", drop("model.visual.pos_embed.weight"), "of the vision model is missing"),
    (
        "a layer fewer",
        text(num_hidden_layers=1, layer_types=["linear_attention"]),
        f"'{P}layers.1.input_layernorm.weight' (BF",
    ),
    ("a layer more", text(num_hidden_layers=3, layer_types=["linear_attention"] * 3), f"'{P}layers.1.linear_attn."),
    ("unknown tensor", put("model.extra", normal(3, 5)), f"{FILE}: tensor 'model.extra' (F32 [3, 5]) is not part of"),
    ("how to accept it", put("model.extra", normal(3)), "\nhint: pass accept=['model.extra'] to ignore it"),
    (
        "MTP that the config has not",
        text(mtp_num_hidden_layers=0),
        "tensor 'mtp.fc.weight' (BF16 [40, 80]) is not part",
    ),
    ("vision that the config has not", configure(vision_config=None), f"{FILE}: tensor 'model.visual."),
    ("both kinds of names", put("model.norm.weight", normal(40)), "tensor 'model.norm.weight' (F32 [40]) is not part"),
    ("transposed", put(UP, TWISTED), f"{FILE}: tensor {UP!r} has shape [40, 56]; config.json asks for [56, 40]"),
    ("flat", put(UP, normal(56 * 40)), f"{FILE}: tensor {UP!r} has shape [2240]; config.json asks for [56, 40]"),
    ("a dimension more", put(UP, normal(1, 56, 40)), f"tensor {UP!r} has shape [1, 56, 40]; config.json"),
    ("config of another size", text(intermediate_size=57), "has shape [40, 56]; config.json asks for [40, 57]"),
    (
        "vocabulary of another size",
        text(vocab_size=98),
        f"{EMBEDDING!r} has shape [97, 40]; config.json asks for [98, 40]",
    ),
    (
        "conv without its middle axis",
        put(CONV, normal(252, 4)),
        f"{CONV!r} has shape [252, 4]; config.json asks for [252, 1,",
    ),
    (
        "integers",
        put(UP, Tensor(np.zeros((56, 40), np.int8), "I8")),
        f"{UP!r} has dtype I8; weights are read from F32, BF16",
    ),
    ("float64", put(UP, Tensor(np.zeros((56, 40)), "F64")), f"{UP!r} has dtype F64; weights are read from"),
    (
        "float8",
        put(UP, Tensor(np.zeros((56, 40), np.uint8), "F8_E4M3")),
        f"{UP!r} (F8_E4M3) belongs to a quantised checkpoint",
    ),
    # heads
    ("tied head differs", put(HEAD, normal(97, 40)), f"{FILE}: tensor {HEAD!r} differs from {EMBEDDING!r}, though"),
    (
        "tied head of another dtype",
        change(lambda t: t.update({HEAD: Tensor(t[EMBEDDING].float32(), "F32")})),
        "differs from",
    ),
    ("tied head of another shape", change(lambda t: t.update({HEAD: normal(97, 39, dtype="BF16")})), "differs from"),
    (
        "untied head is missing",
        configure(tie_word_embeddings=False),
        f"tensor {HEAD!r} of the text model is missing\nhint: ",
    ),
    ("tied only inside", configure(tie_word_embeddings=False), "tie_word_embeddings: true at its top level"),
    # other people's forms
    (
        "MLX names alone",
        rename(P, "language_model.model."),
        "is named as MLX does, but has shape [252, 1, 4], not [channels, width, 1]: whether the norms contain",
    ),
    (
        "MLX vision names",
        rename("model.visual.", "vision_tower."),
        "tensor 'language_model.model.embed_tokens.weight' of",
    ),
    (
        "MLX conv",
        put(CONV, normal(252, 4, 1)),
        f"{CONV!r} has shape [252, 4, 1], [channels, width, 1] as MLX stores it",
    ),
    (
        "MLX quantised",
        put(UP.replace("weight", "scales"), normal(56)),
        "scales' (F32) belongs to a quantised checkpoint",
    ),
    (
        "GPTQ",
        put(UP.replace("weight", "qweight"), Tensor(np.zeros((5, 7), np.int32), "I32")),
        "qweight' (I32) belongs to a q",
    ),
    (
        "FP8 scales",
        put(UP + "_scale_inv", normal(2, 3)),
        "up_proj.weight_scale_inv' (F32) belongs to a quantised checkpoint",
    ),
    ("adapter tensors", put("base_model.x.lora_A.weight", normal(2)), "belongs to a LoRA adapter, not to a model"),
    # damage
    ("truncated", truncate(FILE, 1), "bytes behind the end of the file: it is truncated"),
    ("truncated to nothing", say(b"", FILE), f"{FILE}: is empty"),
    ("weights are a pointer", say(b"version https://git-lfs.github.com/spec/v1\n", FILE), "is a Git LFS pointer"),
    # shards
    ("shard missing", sharded(remove("b.safetensors")), f"b.safetensors: this shard is missing; {INDEX} puts tensor '"),
    ("shard truncated", sharded(truncate("b.safetensors", 5)), "b.safetensors: tensor "),
    (
        "numbered shard missing",
        sharded(remove(NUMBERED[1]), names=NUMBERED, index=False),
        f"{NUMBERED[1]}: this shard is missing",
    ),
    ("tensor twice", sharded(third_file, index=False), f"c.safetensors: tensor {UP!r} is in "),
    (
        "index names what is not",
        sharded(reindex(lambda m: m.update(ghost="a.safetensors"))),
        "a.safetensors: tensor 'ghost' is not in",
    ),
    ("index in the wrong shard", sharded(reindex(swap)), f"tensor {UP!r} is not in this file, where"),
    ("index forgets", sharded(reindex(lambda m: m.pop(UP))), f"tensor {UP!r} is in this file but not in {INDEX}"),
    ("path up", point("../a.safetensors"), f"{INDEX}: puts tensor {UP!r} into '../a.saf"),
    ("absolute path", point("/etc/a.safetensors"), "into '/etc/a.safetensors'; the name of"),
    ("path down", point("sub/a.safetensors"), "into 'sub/a.safetensors'; the name of"),
    ("windows path", point("..\\a.safetensors"), "; the name of a *.safetensors file"),
    ("drive", point("C:a.safetensors"), "; the name of a *.safetensors file"),
    ("not safetensors", point("config.json"), "into 'config.json'; the name of a *.safe"),
    ("index of numbers", point(3), f"{INDEX}: puts tensor {UP!r} into 3; the name"),
    ("index not JSON", sharded(say("{", INDEX)), f"{INDEX} is not valid JSON"),
    ("index empty", sharded(say("", INDEX)), f"{INDEX} is not valid JSON"),
    ("index without a map", sharded(say("{}", INDEX)), f"{INDEX}: has no weight_map"),
    ("index is a list", sharded(say("[]", INDEX)), f"{INDEX}: has no weight_map"),
    ("index map empty", sharded(say('{"weight_map": {}}', INDEX)), f"{INDEX}: has no weight_map"),
    ("index alone", sharded(remove("a.safetensors"), remove("b.safetensors")), "this shard is missing"),
    ("single file and index", sharded(lambda d: make_checkpoint(d)), f"holds both {FILE} and an index of other files"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    directory = make_checkpoint(tmp_path_factory.mktemp("whole"))
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(("damage", "sentence"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_checkpoint_is_refused_in_a_sentence(tmp_path, whole, damage, sentence):
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    damage(tmp_path)
    with pytest.raises(ValueError) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value), "the directory or the file is not named"
    assert sentence in str(caught.value)
    lines = str(caught.value).replace(str(tmp_path), "").splitlines()
    assert len(lines[0]) < 400, "one sentence"
    assert all(line.startswith("hint: ") for line in lines[1:]), "then a hint"


def test_only_a_missing_head_gets_the_hint_about_tying(tmp_path):
    make_checkpoint(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.pop(UP))
    with pytest.raises(ValueError) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).endswith("of the text model is missing")


def test_of_the_directory_above_the_models_in_it_are_named(tmp_path):
    (tmp_path / "notes").mkdir()
    make_checkpoint(tmp_path / "mine")
    with pytest.raises(ValueError) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).endswith(f"hint: give one of the models in it: {tmp_path / 'mine'}")


def test_a_copied_link_that_leads_nowhere_is_told(tmp_path):
    make_checkpoint(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to("../../blobs/gone")
    with pytest.raises(ValueError, match=r"holds no config.json.*\nhint: its link leads nowhere"):
        open_checkpoint(tmp_path)


def test_what_is_not_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such directory"):
        open_checkpoint(tmp_path / "none")
    (tmp_path / "f").write_text("")
    with pytest.raises(ValueError, match="is a file; a checkpoint is a directory"):
        open_checkpoint(tmp_path / "f")


@pytest.mark.parametrize(("make", "tied"), [(config, True), (text_config, False)])
def test_each_tensor_is_needed_and_checked(tmp_path, make, tied):
    """Every row of the table: dropped, mis-shaped and mis-typed, each is an error that names it."""
    directory = make_checkpoint(tmp_path, make(tied))
    whole = (directory / FILE).read_bytes()
    for name, row in weights_table(parse_config(make(tied))).items():
        damages = (
            (drop(name), "is missing"),
            (put(name, normal(*row.shape[:-1], row.shape[-1] + 1)), "has shape"),
            (put(name, Tensor(np.zeros(row.shape, np.int16), "I16")), "has dtype I16"),
        )
        for damage, sentence in damages:
            (directory / FILE).write_bytes(whole)
            damage(directory)
            with pytest.raises(ValueError) as caught:
                open_checkpoint(directory)
            assert repr(name) in str(caught.value)
            assert sentence in str(caught.value)
