"""Checkpoints that transformers itself saved: they open, and every weight is the bytes of the model's parameter."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.store import open_checkpoint
from tests.store.store_files import config, text_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def build(raw, dtype):
    if raw["model_type"] == "qwen3_5_text":
        settings = transformers.Qwen3_5TextConfig(**{k: v for k, v in raw.items() if k != "model_type"})
        model = transformers.Qwen3_5ForCausalLM(settings)
    else:
        settings = transformers.Qwen3_5Config(**{k: v for k, v in raw.items() if k != "model_type"})
        model = transformers.Qwen3_5ForConditionalGeneration(settings)
    return model.to(dtype)


def bits(parameter):
    width = {2: torch.int16, 4: torch.int32}[parameter.element_size()]
    return parameter.detach().contiguous().view(width).numpy()


@pytest.mark.parametrize("shard_size", ["5GB", "40KB"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("make", "dtype"), [(config, torch.bfloat16), (config, torch.float32), (text_config, torch.float32)]
)
def test_what_transformers_saves_opens_with_the_same_bits(tmp_path, make, dtype, tied, shard_size):
    torch.manual_seed(5)
    model = build(make(tied), dtype)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shard_size == "40KB"
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.text_only == (make is text_config)
    assert checkpoint.config.tie_word_embeddings == tied
    assert (checkpoint.has_mtp, checkpoint.has_vision) == (False, make is config)
    assert checkpoint.dtype == ("F32" if dtype == torch.float32 else "BF16")
    state = model.state_dict()
    assert set(checkpoint.table) == set(state) - ({"lm_head.weight"} if tied else set())
    for name in checkpoint.table:
        array = checkpoint.read(name).array
        assert np.array_equal(array.view(f"<i{array.itemsize}"), bits(state[name])), name


def test_transformers_reads_what_we_write(tmp_path):
    from ingot.store import write_random_checkpoint

    write_random_checkpoint(tmp_path, config(tied=False), dtype="f32", vision=True)
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    checkpoint, state = open_checkpoint(tmp_path), model.state_dict()
    for name, row in checkpoint.table.items():
        if row.component != "mtp":
            assert np.array_equal(checkpoint.read(name).array, state[name].numpy()), name
