"""A GGUF's tensors as those of the Hugging Face checkpoint: names, and what the converter did to the values.

llama.cpp's converter writes the norms of `1 + w` with the 1 added, -exp(A_log) in A_log's place, the convolution
without its middle axis, the patch embedding as one tensor a frame, and the value heads of the delta rule in another
order: the j-th value head of key head k is number k * (Hv / Hk) + j here and j * Hk + k there. That moves rows of what
makes value heads, and columns of what reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ingot.spec import TextConfig, Weight
from ingot.store.blocks import QuantisedTensor, dequantise
from ingot.store.gguf import GGUFFile
from ingot.store.mapped import TensorInfo
from ingot.store.tensor import FLOATING, Tensor, tensor_of

_MODEL = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
}
_MTP = {
    "fc.weight": "nextn.eh_proj.weight",
    "pre_fc_norm_embedding.weight": "nextn.enorm.weight",
    "pre_fc_norm_hidden.weight": "nextn.hnorm.weight",
    "norm.weight": "nextn.shared_head_norm.weight",
}
_VISION = {
    "patch_embed.proj": "v.patch_embd",
    "pos_embed": "v.position_embd",
    "merger.norm": "v.post_ln",
    "merger.linear_fc1": "mm.0",
    "merger.linear_fc2": "mm.2",
}
_VISION_BLOCK = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.qkv": "attn_qkv",
    "attn.proj": "attn_out",
    "mlp.linear_fc1": "ffn_up",
    "mlp.linear_fc2": "ffn_down",
}
VERSION = 1  # of what is made of a file's values; a change makes packed weights in the cache stale
PATCHES, MORE_PATCHES = "v.patch_embd.weight", "v.patch_embd.weight.{}"  # the first frame's; the others'


def gguf_name(name: str, prefix: str, layers: int) -> str:
    """The name in a GGUF of the tensor that Hugging Face calls `name`; `prefix` and `layers` are the decoder's."""
    if name == "lm_head.weight":
        return "output.weight"
    if name.startswith("model.visual."):
        return _vision_name(name.removeprefix("model.visual."))
    if name.startswith("mtp.layers.0."):
        return f"blk.{layers}.{_LAYER[name.removeprefix('mtp.layers.0.')]}"
    if name.startswith("mtp."):
        return f"blk.{layers}.{_MTP[name.removeprefix('mtp.')]}"
    inside = name.removeprefix(prefix)
    if inside in _MODEL:
        return _MODEL[inside]
    _, number, rest = inside.split(".", 2)
    return f"blk.{number}.{_LAYER[rest]}"


def _vision_name(inside: str) -> str:
    module, kind = inside.rsplit(".", 1)
    if module in _VISION:
        return f"{_VISION[module]}.{kind}"
    _, number, rest = module.split(".", 2)
    return f"v.blk.{number}.{_VISION_BLOCK[rest]}.{kind}"


def value_head_order(key_heads: int, value_heads: int) -> np.ndarray:
    """For each value head of Hugging Face's order, its number in a GGUF."""
    return np.arange(value_heads).reshape(-1, key_heads).T.reshape(-1)


@dataclass(frozen=True, eq=False)
class GGUFWeights:
    """One GGUF file under the interface of `SafetensorsFile`: tensors by their names in the GGUF, with the shapes and
    values of the Hugging Face weights that `placed` has for them."""

    file: GGUFFile
    placed: Mapping[str, Weight]
    text: TextConfig

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def identity(self) -> tuple[object, ...]:
        return (*self.file.identity, VERSION)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.file.names if name not in self._frames()[1:])

    def info(self, name: str) -> TensorInfo:
        """Type, the shape that the weight has in a Hugging Face checkpoint, and place."""
        info, weight = self.file.info(name), self.placed.get(name)
        shape = info.shape
        if name == PATCHES and len(shape) == 4:
            shape = (*shape[:2], len(self._frames()), *shape[2:])
        elif weight is not None and weight.role == "conv" and len(shape) == 2:
            shape = (shape[0], 1, shape[1])
        return TensorInfo(info.dtype, shape, info.begin, info.end)

    def tensor(self, name: str) -> Tensor | QuantisedTensor:
        """The weight: a view of the file where that has it as it is, else a new array; quantised matrices stay so."""
        weight, info, values = self.placed[name], self.info(name), self.file.values(name)
        rows, columns = self._orders(weight)
        if name == PATCHES:
            return tensor_of(np.stack([self._float32(frame) for frame in self._frames()], axis=2), "F32")
        if info.dtype in FLOATING:
            tensor = Tensor(values.reshape(info.shape), info.dtype, self.file.pages(name))
        elif len(info.shape) == 2:
            return QuantisedTensor(values, info.dtype, info.shape, self.file.pages(name), rows, columns)
        else:
            tensor = Tensor(self._float32(name).reshape(info.shape), "F32")
        if rows is not None:
            tensor = Tensor(tensor.array[rows], tensor.dtype)
        if columns is not None:
            tensor = Tensor(np.ascontiguousarray(tensor.array[:, columns]), tensor.dtype)  # row after row, as ever
        return self._undone(weight, tensor)

    def _float32(self, name: str) -> np.ndarray:
        """The values of a tensor as it is in the file."""
        info, values = self.file.info(name), self.file.values(name)
        if info.dtype in FLOATING:
            return Tensor(values, info.dtype).float32()
        return dequantise(values.reshape(-1, values.shape[-1]), info.dtype).reshape(info.shape)

    def release(self, name: str) -> None:
        """Give the tensor's pages back to the system."""
        info = self.file.info(name)
        self.file.pages(name)(0, info.end - info.begin)

    def _undone(self, weight: Weight, tensor: Tensor) -> Tensor:
        """Without the arithmetic of the converter."""
        if weight.role == "norm1p":
            return Tensor(tensor.float32() - 1, "F32")  # exact from 0.5 on, and the graph adds the 1 again
        if not weight.name.endswith("A_log"):
            return tensor
        decay = tensor.float32()
        if not (decay < 0).all():
            raise ValueError(
                f"{self.path}: tensor 'ssm_a' of {weight.name!r} holds {decay.max()}; -exp(A_log) is negative"
            )
        return tensor_of(np.log(-decay.astype(np.float64)), "F32")

    def _orders(self, weight: Weight) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Which stored row is each row, and column each column; None where they lie in order."""
        t = self.text
        if ".linear_attn." not in weight.name or t.linear_num_key_heads == t.linear_num_value_heads:
            return None, None
        kind = weight.name.rpartition(".linear_attn.")[2].removesuffix(".weight")
        heads = value_head_order(t.linear_num_key_heads, t.linear_num_value_heads)
        wide = (heads[:, None] * t.linear_value_head_dim + np.arange(t.linear_value_head_dim)).reshape(-1)
        keys = 2 * t.linear_num_key_heads * t.linear_key_head_dim
        if kind in ("in_proj_qkv", "conv1d"):
            return np.concatenate([np.arange(keys), keys + wide]), None
        if kind in ("in_proj_a", "in_proj_b", "A_log", "dt_bias"):
            return heads, None
        return (wide if kind == "in_proj_z" else None), (wide if kind == "out_proj" else None)

    def _frames(self) -> list[str]:
        """The tensors of the patch embedding, a frame each."""
        frames = [PATCHES]
        while (following := MORE_PATCHES.format(len(frames))) in self.file:
            if self.file.info(following).shape != self.file.info(PATCHES).shape:
                break
            frames.append(following)
        return frames
