"""The weights table: one row for each tensor of a checkpoint, derived from its configuration.

A weight's role decides what may be quantised, how it is initialised, its learning-rate group and decay, and whether a
norm multiplies by `1 + w`. Nothing else in Ingot looks at a tensor's name to learn what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ingot.spec.config import FULL, Config, TextConfig, VisionConfig


@dataclass(frozen=True)
class Weight:
    """One tensor: its Hugging Face name, shape, official dtype ("bf16" | "fp32"), role, the rows its parts take, its
    component.

    `parts` names the row blocks of fused matrices in order, e.g. (("q", 2048), ("k", 2048), ("v", 2048)); rows sum to
    shape[0]. `component` is "text", "mtp" or "vision": the first is needed to answer a text, the others may be absent
    from a file. `role` is "matrix", "gate" (a matrix that is never quantised), "embedding", "norm1p" (stored as w - 1),
    "norm", "conv", "decay" or "bias".
    """

    name: str
    shape: tuple[int, ...]
    role: str
    component: str = "text"
    dtype: str = "bf16"
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Outputs and inputs of a matrix; a convolution's kernel is flattened."""
        return self.shape[0], self.size // self.shape[0]

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for n in self.shape:
            count *= n
        return count


def weights_table(config: Config) -> dict[str, Weight]:
    """Every tensor of the checkpoint that `config` describes, by name, in file order of the official checkpoints."""
    rows = [*_text(config), *_mtp(config), *(_vision(config.vision) if config.vision else ())]
    return {row.name: row for row in rows}


def _text(config: Config) -> Iterator[Weight]:
    text, prefix = config.text, config.prefix
    yield Weight(f"{prefix}embed_tokens.weight", (text.vocab_size, text.hidden_size), "embedding")
    for i, kind in enumerate(text.layer_types):
        yield from _layer(text, f"{prefix}layers.{i}.", kind, "text")
    yield Weight(f"{prefix}norm.weight", (text.hidden_size,), "norm1p")
    if not config.tie_word_embeddings:
        yield Weight("lm_head.weight", (text.vocab_size, text.hidden_size), "matrix")


def _layer(text: TextConfig, at: str, kind: str, component: str) -> Iterator[Weight]:
    d, f = text.hidden_size, text.intermediate_size
    yield Weight(f"{at}input_layernorm.weight", (d,), "norm1p", component)
    yield from (_self_attn if kind == FULL else _linear_attn)(text, at, component)
    yield Weight(f"{at}post_attention_layernorm.weight", (d,), "norm1p", component)
    yield Weight(f"{at}mlp.gate_proj.weight", (f, d), "matrix", component)
    yield Weight(f"{at}mlp.up_proj.weight", (f, d), "matrix", component)
    yield Weight(f"{at}mlp.down_proj.weight", (d, f), "matrix", component)


def _self_attn(text: TextConfig, at: str, component: str) -> Iterator[Weight]:
    d, e = text.hidden_size, text.head_dim
    q, kv = text.num_attention_heads * e, text.num_key_value_heads * e
    # one head's query rows, then its gate rows, then the next head: not all queries, then all gates
    heads = tuple((f"{part}{h}", e) for h in range(text.num_attention_heads) for part in ("q", "gate"))
    yield Weight(f"{at}self_attn.q_proj.weight", (2 * q, d), "matrix", component, parts=heads)
    yield Weight(f"{at}self_attn.k_proj.weight", (kv, d), "matrix", component)
    yield Weight(f"{at}self_attn.v_proj.weight", (kv, d), "matrix", component)
    yield Weight(f"{at}self_attn.o_proj.weight", (d, q), "matrix", component)
    yield Weight(f"{at}self_attn.q_norm.weight", (e,), "norm1p", component)
    yield Weight(f"{at}self_attn.k_norm.weight", (e,), "norm1p", component)


def _linear_attn(text: TextConfig, at: str, component: str) -> Iterator[Weight]:
    d, h = text.hidden_size, text.linear_num_value_heads
    keys, values = text.linear_num_key_heads * text.linear_key_head_dim, h * text.linear_value_head_dim
    parts = (("q", keys), ("k", keys), ("v", values))
    at = f"{at}linear_attn."
    yield Weight(f"{at}in_proj_qkv.weight", (text.conv_dim, d), "matrix", component, parts=parts)
    yield Weight(f"{at}in_proj_z.weight", (values, d), "matrix", component)
    yield Weight(f"{at}in_proj_b.weight", (h, d), "gate", component)
    yield Weight(f"{at}in_proj_a.weight", (h, d), "gate", component)
    yield Weight(f"{at}conv1d.weight", (text.conv_dim, 1, text.linear_conv_kernel_dim), "conv", component, parts=parts)
    yield Weight(f"{at}A_log", (h,), "decay", component, "fp32")
    yield Weight(f"{at}dt_bias", (h,), "decay", component)
    yield Weight(f"{at}norm.weight", (text.linear_value_head_dim,), "norm", component, "fp32")
    yield Weight(f"{at}out_proj.weight", (d, values), "matrix", component)


def _mtp(config: Config) -> Iterator[Weight]:
    text = config.text
    if text.mtp_num_hidden_layers == 0:
        return
    d = text.hidden_size
    yield Weight("mtp.fc.weight", (d, 2 * d), "matrix", "mtp")
    yield Weight("mtp.pre_fc_norm_embedding.weight", (d,), "norm1p", "mtp")
    yield Weight("mtp.pre_fc_norm_hidden.weight", (d,), "norm1p", "mtp")
    yield from _layer(text, "mtp.layers.0.", FULL, "mtp")
    yield Weight("mtp.norm.weight", (d,), "norm1p", "mtp")


def _vision(vision: VisionConfig) -> Iterator[Weight]:
    h, at = vision.hidden_size, "model.visual."
    merged, patch = h * vision.spatial_merge_size**2, vision.patch_size
    kernel = (h, vision.in_channels, vision.temporal_patch_size, patch, patch)
    yield from _affine(f"{at}patch_embed.proj", kernel, "matrix")
    yield Weight(f"{at}pos_embed.weight", (vision.num_position_embeddings, h), "embedding", "vision")
    for j in range(vision.depth):
        block = f"{at}blocks.{j}."
        yield from _affine(f"{block}norm1", (h,), "norm")
        yield from _affine(f"{block}norm2", (h,), "norm")
        yield from _affine(f"{block}attn.qkv", (3 * h, h), "matrix", (("q", h), ("k", h), ("v", h)))
        yield from _affine(f"{block}attn.proj", (h, h), "matrix")
        yield from _affine(f"{block}mlp.linear_fc1", (vision.intermediate_size, h), "matrix")
        yield from _affine(f"{block}mlp.linear_fc2", (h, vision.intermediate_size), "matrix")
    yield from _affine(f"{at}merger.norm", (h,), "norm")
    yield from _affine(f"{at}merger.linear_fc1", (merged, merged), "matrix")
    yield from _affine(f"{at}merger.linear_fc2", (vision.out_hidden_size, merged), "matrix")


def _affine(name: str, shape: tuple[int, ...], role: str, parts: tuple[tuple[str, int], ...] = ()) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", shape, role, "vision", parts=parts)
    yield Weight(f"{name}.bias", (shape[0],), "bias", "vision", parts=parts)
