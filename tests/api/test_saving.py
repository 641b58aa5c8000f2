"""Load, save, load is the identity, MTP and vision included; a torch model saves what it has become."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.store import open_checkpoint, tensor_of
from ingot.store.checkpoint import COMPANIONS
from tests.store.store_files import config, make_checkpoint, read_all, rewrite, shard, text_config

IDS = [5, 11, 2, 60, 7]
LAYOUTS = {
    "multimodal, tied": {"raw": config(tied=True)},
    "multimodal, untied": {"raw": config(tied=False)},
    "text only, tied": {"raw": text_config(tied=True)},
    "text only, untied": {"raw": text_config(tied=False)},
    "float32": {"raw": config(tied=False), "dtype": "f32"},
    "without vision and MTP": {"raw": config(tied=False), "vision": False, "mtp": False},
}


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".safetensors"}


def weights_of(directory: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    tensors = {n: t for path in sorted(directory.glob("*.safetensors")) for n, t in read_all(path).items()}
    return {name: (tensor.dtype, tensor.shape, tensor.array.tobytes()) for name, tensor in tensors.items()}


@pytest.fixture
def made(tmp_path):
    """A checkpoint with every file that may lie beside weights."""
    path = make_checkpoint(tmp_path / "made", config(tied=False))
    for name in COMPANIONS[1:]:
        if not name.startswith(("tokenizer", "vocab", "merges")):
            (path / name).write_text('{  "kept": "byte for byte é"}\r\n')
    (path / "preprocessor_config.json").write_text('{"patch_size": 8}')
    (path / "video_preprocessor_config.json").write_text("{}")
    return path


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_saved_is_what_was_loaded(layout, backend, tmp_path):
    source = make_checkpoint(tmp_path / "made", **LAYOUTS[layout])
    model = ingot.load(source, backend=backend)
    saved = ingot.save(model, tmp_path / "saved")
    assert weights_of(saved) == weights_of(source)
    assert files_of(saved) == files_of(source)
    again = ingot.load(saved, backend=backend)
    assert np.array_equal(again.logits(IDS), model.logits(IDS))


def test_files_beside_the_weights_are_copied_byte_for_byte(made, tmp_path):
    (made / "README.md").write_text("not of the checkpoint")
    saved = ingot.save(ingot.load(made), tmp_path / "saved")
    expected = files_of(made)
    del expected["README.md"]
    assert files_of(saved) == expected


def test_f16_a_stored_head_and_accepted_tensors_stay(tmp_path):
    source = make_checkpoint(tmp_path / "made", config(tied=True), dtype="f32")

    def change(tensors):
        for name in list(tensors):
            if tensors[name].array.ndim > 1:
                tensors[name] = tensor_of(tensors[name].float32(), "F16")
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]
        tensors["extra.thing"] = tensor_of(np.arange(3, dtype=np.float32), "F32")

    rewrite(source, change)
    for backend in ("native", "torch"):
        model = ingot.load(source, accept=["extra.*"], backend=backend)
        assert weights_of(ingot.save(model, tmp_path / backend)) == weights_of(source)


def test_a_text_only_file_under_a_multimodal_config_keeps_its_names(tmp_path):
    source = make_checkpoint(tmp_path / "made", config(tied=True), vision=False, mtp=False)
    rewrite(source, lambda tensors: [tensors.update({_short(n): tensors.pop(n)}) for n in list(tensors)])
    saved = ingot.save(ingot.load(source), tmp_path / "saved")
    assert weights_of(saved) == weights_of(source)
    assert any(name.startswith("model.layers.") for name in weights_of(saved))


def _short(name: str) -> str:
    return name.replace("model.language_model.", "model.")


def test_above_a_size_there_are_shards(made, tmp_path):
    told = []
    saved = ingot.save(
        ingot.load(made), tmp_path / "saved", shard_bytes=60_000, progress=lambda *sizes: told.append(sizes)
    )
    shards = sorted(path.name for path in saved.glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert max((saved / name).stat().st_size for name in shards) < 65_000
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(weights_of(made))
    assert index["metadata"]["total_size"] == sum(len(w[2]) for w in weights_of(made).values()) == told[-1][0]
    assert weights_of(saved) == weights_of(made)
    assert open_checkpoint(saved).has_vision


def test_shards_become_one_file(made, tmp_path):
    expected = weights_of(made)
    shard(made)
    saved = ingot.save(ingot.load(made), tmp_path / "saved")
    assert [path.name for path in saved.glob("*.safetensors*")] == ["model.safetensors"]
    assert weights_of(saved) == expected


@pytest.mark.parametrize("layout", ["multimodal, tied", "text only, untied"])
def test_a_torch_model_saves_its_change(layout, tmp_path):
    torch = pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "made", **LAYOUTS[layout])
    model = ingot.load(source, backend="torch")
    name, parameter = next((n, p) for n, p in model.engine.root.named_parameters() if n.endswith("down_proj.weight"))
    with torch.no_grad():
        parameter[3, 5] = 0.5
    before = weights_of(source)
    saved = ingot.save(model, tmp_path / "saved")
    after = weights_of(saved)
    assert [n for n in before if before[n] != after[n]] == [name]
    assert np.array_equal(ingot.load(saved, backend="torch").logits(IDS), model.logits(IDS))


def test_a_changed_vision_tower_is_saved(made, tmp_path):
    torch = pytest.importorskip("torch")
    model = ingot.load(made, backend="torch")
    tower = model.engine.eyes._load(lambda: None)
    model.engine.eyes._tower = tower
    with torch.no_grad():
        tower.blocks[0].attn.proj.weight[2, 1] = 0.25
    before, after = weights_of(made), weights_of(ingot.save(model, tmp_path / "saved"))
    assert [n for n in before if before[n] != after[n]] == ["model.visual.blocks.0.attn.proj.weight"]


def test_a_change_that_would_be_rounded_is_asked_about(made, tmp_path):
    torch = pytest.importorskip("torch")
    model = ingot.load(made, backend="torch", weights="f32")
    with torch.no_grad():
        for parameter in model.engine.root.parameters():
            parameter *= 1.001
    with pytest.raises(ValueError, match=r"has changed and is stored as BF16, which would round it\nhint: dtype='f32'"):
        ingot.save(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    wide = ingot.save(model, tmp_path / "wide", dtype="f32")
    assert np.array_equal(ingot.load(wide, backend="torch").logits(IDS), model.logits(IDS))
    narrow = ingot.save(model, tmp_path / "narrow", dtype="bf16")
    assert {row[0] for row in weights_of(wide).values()} == {"F32"}
    official = {name: row[0] for name, row in weights_of(made).items()}
    assert {name: row[0] for name, row in weights_of(narrow).items()} == official


def test_the_configuration_tells_the_dtype_that_was_asked_for(tmp_path):
    source = make_checkpoint(tmp_path / "made")
    raw = json.loads((source / "config.json").read_text())
    raw["text_config"]["dtype"] = raw["dtype"] = "bfloat16"
    (source / "config.json").write_text(json.dumps(raw))
    saved = json.loads((ingot.save(ingot.load(source), tmp_path / "saved", dtype="f32") / "config.json").read_text())
    raw["text_config"]["dtype"] = raw["dtype"] = "float32"
    assert saved == raw


@pytest.mark.parametrize("seed", [0, 1, 2, 5])  # text-only untied, text-only tied, multimodal untied, multimodal tied
def test_transformers_reads_what_is_saved(seed, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.model.checkpoints import reference_model, save_checkpoint
    from tests.tolerance import LOGITS_OF_SCALE

    source = save_checkpoint(tmp_path / "made", seed)
    model = ingot.load(source, backend="torch")
    with torch.no_grad():
        for parameter in model.engine.root.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    saved = ingot.save(model, tmp_path / "saved", shard_bytes=100_000)
    with torch.no_grad():
        theirs = reference_model(saved, seed)(input_ids=torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(theirs - model.logits(IDS)).max() <= LOGITS_OF_SCALE * np.abs(theirs).max()
    assert np.abs(theirs - ingot.load(source).logits(IDS)).max() > LOGITS_OF_SCALE * np.abs(theirs).max()


def test_every_weight_that_transformers_has_comes_back_bit_for_bit(tmp_path):
    pytest.importorskip("transformers")
    from tests.model.checkpoints import reference_model, save_seeing_checkpoint

    source = save_seeing_checkpoint(tmp_path / "made", 5)
    saved = ingot.save(ingot.load(source), tmp_path / "saved")
    one, two = (reference_model(path, 5).state_dict() for path in (source, saved))
    assert list(one) == list(two)
    assert all(one[name].equal(two[name]) for name in one)


# -- what is refused, and what stays


REFUSED = [
    ({"weights": "q8"}, {}, ValueError, "model holds its weights as q8, whose rounding cannot be undone"),
    ({"weights": "q4"}, {}, ValueError, "hint: load it without weights=, as it is stored"),
    ({}, {"dtype": "f16"}, ValueError, "dtype is 'f16'; 'bf16', 'f32' or None, as stored, is allowed"),
    ({}, {"shard_bytes": 0}, ValueError, "shard_bytes is 0; it must be a positive number"),
]


@pytest.mark.parametrize(("loading", "saving", "kind", "sentence"), REFUSED)
def test_refusals(made, tmp_path, loading, saving, kind, sentence):
    with pytest.raises(kind, match=sentence):
        ingot.save(ingot.load(made, **loading), tmp_path / "saved", **saving)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_bf16_of_a_float32_checkpoint_is_no_longer_it(tmp_path):
    model = ingot.load(make_checkpoint(tmp_path / "made", dtype="f32"), weights="bf16")
    with pytest.raises(ValueError, match="model holds its weights as bf16, rounded from F32"):
        ingot.save(model, tmp_path / "saved")


def test_an_adapted_model_is_to_be_merged_first(made, tmp_path):
    torch = pytest.importorskip("torch")
    model = ingot.load(made, backend="torch")
    model.engine.root.lora_A = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"'lora_A', which is not part of its checkpoint\nhint: merge"):
        ingot.save(model, tmp_path / "saved")


def test_weights_that_diverged_are_not_saved(made, tmp_path):
    torch = pytest.importorskip("torch")
    model = ingot.load(made, backend="torch")
    with torch.no_grad():
        next(iter(model.engine.root.parameters()))[0] = float("nan")
    with pytest.raises(ValueError, match="holds a NaN or an infinity; weights must be finite"):
        ingot.save(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_what_is_there_is_replaced_when_asked(made, tmp_path):
    model, target = ingot.load(made), tmp_path / "saved"
    ingot.save(model, target, shard_bytes=60_000)
    with pytest.raises(FileExistsError, match=r"saved: is there already, with .* in it\nhint: overwrite=True"):
        ingot.save(model, target)
    ingot.save(model, target, overwrite=True)
    assert weights_of(target) == weights_of(made)
    assert not (target / "model.safetensors.index.json").exists()
    (target / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds diary\.txt, which is no part of a checkpoint and would be lost"):
        ingot.save(model, target, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "saved"]


def test_a_model_may_be_saved_over_itself(made, tmp_path):
    expected, model = weights_of(made), ingot.load(made)
    assert weights_of(ingot.save(model, made, overwrite=True)) == expected
    assert weights_of(ingot.save(model, tmp_path / "again")) == expected


def test_an_empty_directory_is_taken(made, tmp_path):
    (tmp_path / "saved").mkdir()
    assert open_checkpoint(ingot.save(ingot.load(made), tmp_path / "saved")).has_mtp
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file: is a file; save makes a directory"):
        ingot.save(ingot.load(made), tmp_path / "file")


def test_a_full_disk_and_an_interrupt_leave_what_was_there(made, tmp_path, monkeypatch):
    model = ingot.load(made)
    target = ingot.save(model, tmp_path / "saved")
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()):

        def fail(done, total, error=error):
            if done > total // 2:
                raise error

        with pytest.raises(type(error)):
            ingot.save(model, target, overwrite=True, progress=fail)
        assert weights_of(target) == weights_of(made)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "saved"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(OSError, match=r"GB are to be written, and the disk has 0.00 GB left"):
        ingot.save(model, tmp_path / "more")
