"""Checkpoints as MLX tools write them: renamed, channels last, the norms' 1 added in bf16."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.store import Tensor, open_checkpoint, tensor_of
from tests.store.store_files import config, make_checkpoint, rewrite


def as_mlx(shift=1.0, conv=True):
    """What sanitising does to the tensors of a checkpoint; the MTP head is dropped."""

    def change(tensors):
        for name in list(tensors):
            tensor = tensors.pop(name)
            if name.startswith("mtp."):
                continue
            new = name.replace("model.language_model.", "language_model.model.").replace(
                "model.visual.", "vision_tower."
            )
            new = f"language_model.{new}" if new == "lm_head.weight" else new
            if ("conv1d" in name and conv) or "patch_embed.proj.weight" in name:
                tensor = Tensor(np.ascontiguousarray(np.moveaxis(tensor.array, 1, -1)), tensor.dtype)
            own = "linear_attn.norm" not in name and "visual" not in name
            if "norm" in name and own:
                tensor = tensor_of(tensor.float32() + np.float32(shift), tensor.dtype)
            tensors[new] = tensor

    return change


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def place(tmp_path, request):
    return make_checkpoint(tmp_path, config(request.param))


def test_an_mlx_checkpoint_is_read_as_what_mlx_computes_with(place):
    whole = open_checkpoint(place)
    want = {name: whole.read(name).float32().copy() for name in whole.table}
    rewrite(place, as_mlx())
    found = open_checkpoint(place)
    assert found.config == whole.config
    assert found.has_vision
    assert not found.has_mtp
    for name, row in found.table.items():
        values = found.read(name).float32()
        if row.role == "norm1p":
            shifted = tensor_of(want[name] + np.float32(1), "BF16").float32()
            assert np.array_equal(values + 1, shifted), name
        else:
            assert np.array_equal(values, want[name]), name
        found.release(name)


def test_a_text_only_checkpoint_too(tmp_path):
    place = make_checkpoint(tmp_path)
    rewrite(place, as_mlx())
    rewrite(place, lambda t: [t.pop(name) for name in list(t) if name.startswith("vision_tower.")])
    assert not open_checkpoint(place).has_vision


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (as_mlx(shift=2.0), "whose norms contain the 1 of 1 \\+ w and average about 1, but these average 2.0"),
        (as_mlx(shift=0.0), "but these average -?0.0"),
        (as_mlx(conv=False), "has shape \\[252, 1, 4\\], not \\[channels, width, 1\\]: whether the norms contain"),
    ],
    ids=["shifted twice", "not shifted", "convolution as it was"],
)
def test_where_it_is_not_sure_what_was_done_to_the_norms_it_is_refused(place, change, sentence):
    rewrite(place, change)
    with pytest.raises(ValueError, match=sentence):
        open_checkpoint(place)


def test_quantised_ones_are_refused_with_the_cure(place):
    rewrite(place, as_mlx())
    name = "language_model.model.layers.0.mlp.up_proj"
    rewrite(place, lambda t: t.update({f"{name}.scales": tensor_of(np.ones((56, 1)), "BF16")}))
    with pytest.raises(
        ValueError, match="belongs to a quantised checkpoint; weights in F32, BF16, F16 are read\nhint: "
    ):
        open_checkpoint(place)
