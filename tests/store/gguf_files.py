"""GGUF files for tests, written by the format's own description and with the converter's changes done the other way
round: a second account of both, which shares no line with the reader."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from ingot.store import open_checkpoint
from tests.prompt.small_tokenizer import small_merges, small_vocab

F32, F16, BF16 = 0, 1, 30
Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K = 2, 3, 6, 7, 8, 12, 13, 14
U32, F32_VALUE, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
_CODES = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# weights and bytes of a block, and the bytes in it that are fp16 scales
BLOCK = {
    Q4_0: (32, 18, (0,)),
    Q4_1: (32, 20, (0, 2)),
    Q5_0: (32, 22, (0,)),
    Q5_1: (32, 24, (0, 2)),
    Q8_0: (32, 34, (0,)),
    Q4_K: (256, 144, (0, 2)),
    Q5_K: (256, 176, (0, 2)),
    Q6_K: (256, 210, (208,)),
}
KINDS = dict(zip(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"), BLOCK, strict=True))


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    """A metadata value; an array's content is (type of its elements, list)."""
    if kind == STRING:
        return text(content)
    if kind == ARRAY:
        inner, items = content
        return struct.pack("<IQ", inner, len(items)) + b"".join(value(inner, item) for item in items)
    return struct.pack(_CODES[kind], content)


def entry(key: str, kind: int, content: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + value(kind, content)


def guess(content: Any) -> tuple[int, Any]:
    """The type that the converter gives a Python value."""
    if isinstance(content, list):
        kinds = {bool: BOOL, int: 5, float: F32_VALUE, str: STRING}
        return ARRAY, (kinds[type(content[0])] if content else U32, content)
    return {bool: BOOL, int: U32, float: F32_VALUE, str: STRING}[type(content)], content


def tensor_entry(name: str, kind: int, shape: tuple[int, ...], offset: int) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *reversed(shape))
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def gguf(
    metadata: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...], bytes]], alignment: int = 32
) -> bytes:
    """A whole file; `tensors` maps a name to (type, shape with the slowest axis first, bytes)."""
    head, data = b"", b""
    for name, (kind, shape, raw) in tensors.items():
        head += tensor_entry(name, kind, shape, len(data))
        data += raw.ljust(-(-len(raw) // alignment) * alignment, b"\0")
    entries = b"".join(entry(key, *guess(content)) for key, content in metadata.items())
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + entries + head
    return start.ljust(-(-len(start) // alignment) * alignment, b"\0") + data


def stored(values: np.ndarray, kind: int) -> tuple[int, tuple[int, ...], bytes]:
    """fp32 values in a floating type, cut to bf16 where that is asked for."""
    if kind == BF16:
        return kind, values.shape, (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return kind, values.shape, values.astype("<f4" if kind == F32 else "<f2").tobytes()


def blocks(shape: tuple[int, int], kind: int, seed: int) -> bytes:
    """Random quantised rows whose values have a scale of a few hundredths."""
    rng = np.random.default_rng(seed)
    weights, nbytes, scales = BLOCK[kind]
    raw = rng.integers(0, 256, (shape[0] * shape[1] // weights, nbytes), dtype=np.uint8)
    for at in scales:
        size = {Q8_0: 1e-3, Q6_K: 3e-5, Q4_K: 1e-4, Q5_K: 1e-4}.get(kind, 1e-2)
        d = rng.uniform(0.5, 1, len(raw)) * size * (10 if at == 2 else 1)
        raw[:, at : at + 2] = d.astype("<f2").view(np.uint8).reshape(-1, 2)
    return raw.tobytes()


_TOP = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_SUFFIXES = """
input_layernorm attn_norm | post_attention_layernorm post_attention_norm | mlp.gate_proj ffn_gate | mlp.up_proj ffn_up
mlp.down_proj ffn_down | self_attn.q_proj attn_q | self_attn.k_proj attn_k | self_attn.v_proj attn_v
self_attn.o_proj attn_output | self_attn.q_norm attn_q_norm | self_attn.k_norm attn_k_norm
linear_attn.in_proj_qkv attn_qkv | linear_attn.in_proj_z attn_gate | linear_attn.in_proj_b ssm_beta
linear_attn.in_proj_a ssm_alpha | linear_attn.conv1d ssm_conv1d | linear_attn.norm ssm_norm
linear_attn.out_proj ssm_out
fc nextn.eh_proj | pre_fc_norm_embedding nextn.enorm | pre_fc_norm_hidden nextn.hnorm | norm nextn.shared_head_norm
"""
_LAYER = dict(pair.split() for line in _SUFFIXES.strip().splitlines() for pair in line.split(" | "))
_TOWER = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.qkv": "attn_qkv",
    "attn.proj": "attn_out",
    "mlp.linear_fc1": "ffn_up",
    "mlp.linear_fc2": "ffn_down",
}


def new_name(name: str, layers: int) -> str:
    """What the converter calls a text or MTP tensor."""
    inside = name.removeprefix("model.language_model.")
    if inside in _TOP:
        return _TOP[inside]
    if inside.startswith("mtp."):
        inside = inside.removeprefix("mtp.").removeprefix("layers.0.")
        number = layers
    else:
        _, number, inside = inside.split(".", 2)
    own = {"linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias"}
    return f"blk.{number}." + (own.get(inside) or _LAYER[inside.removesuffix(".weight")] + ".weight")


def tiled(values: np.ndarray, axis: int, skip: int, key_heads: int, width: int) -> np.ndarray:
    """Value heads from grouped to tiled: [Hk, r, width] -> [r, Hk, width] behind the first `skip` entries of `axis`."""
    moved = np.moveaxis(values, axis, 0)
    rest = moved[skip:].reshape(key_heads, -1, width, *moved.shape[1:]).swapaxes(0, 1).reshape(moved[skip:].shape)
    return np.moveaxis(np.concatenate([moved[:skip], rest]), 0, axis)


def converted(name: str, values: np.ndarray, sizes: dict[str, Any]) -> np.ndarray:
    """What the converter makes of the values of a text or MTP tensor."""
    heads, wide = sizes["linear_num_key_heads"], sizes["linear_value_head_dim"]
    keys = 2 * heads * sizes["linear_key_head_dim"]
    kind = name.rpartition("linear_attn.")[2].removesuffix(".weight") if "linear_attn." in name else ""
    if "norm" in name.split(".")[-2] and kind != "norm":
        return values + np.float32(1)
    if kind == "conv1d":
        return tiled(values[:, 0], 0, keys, heads, wide)
    if kind == "in_proj_qkv":
        return tiled(values, 0, keys, heads, wide)
    if kind == "in_proj_z":
        return tiled(values, 0, 0, heads, wide)
    if kind == "out_proj":
        return tiled(values, 1, 0, heads, wide)
    if kind in ("in_proj_a", "in_proj_b", "dt_bias"):
        return tiled(values, 0, 0, heads, 1)
    return -np.exp(tiled(values, 0, 0, heads, 1)) if kind == "A_log" else values


def text_metadata(sizes: dict[str, Any], tokenizer: bool = True) -> dict[str, Any]:
    """The metadata of a `text_config`."""
    mtp, rope = sizes.get("mtp_num_hidden_layers", 0), sizes["rope_parameters"]
    layers = sizes["num_hidden_layers"]
    keys = {
        "block_count": layers + mtp,
        "context_length": sizes["max_position_embeddings"],
        "embedding_length": sizes["hidden_size"],
        "feed_forward_length": sizes["intermediate_size"],
        "attention.head_count": sizes["num_attention_heads"],
        "attention.head_count_kv": sizes["num_key_value_heads"],
        "attention.key_length": sizes["head_dim"],
        "attention.value_length": sizes["head_dim"],
        "attention.layer_norm_rms_epsilon": sizes.get("rms_norm_eps", 1e-6),
        "attention.recurrent_layers": [kind == "linear_attention" for kind in sizes["layer_types"]] + mtp * [False],
        "rope.dimension_sections": [*rope["mrope_section"], 0],
        "rope.freq_base": rope["rope_theta"],
        "rope.dimension_count": round(rope["partial_rotary_factor"] * sizes["head_dim"]),
        "ssm.conv_kernel": sizes["linear_conv_kernel_dim"],
        "ssm.state_size": sizes["linear_key_head_dim"],
        "ssm.group_count": sizes["linear_num_key_heads"],
        "ssm.time_step_rank": sizes["linear_num_value_heads"],
        "ssm.inner_size": sizes["linear_num_value_heads"] * sizes["linear_value_head_dim"],
        "full_attention_interval": 4,
    } | ({"nextn_predict_layers": mtp} if mtp else {})
    found = {"general.architecture": "qwen35", "general.type": "model"}
    found |= {f"qwen35.{key}": content for key, content in keys.items()}
    return found | (tokenizer_metadata(sizes["vocab_size"]) if tokenizer else {})


def tokenizer_metadata(rows: int) -> dict[str, Any]:
    """Of the tests' small tokenizer, filled up to the embedding's rows."""
    from ingot.prompt import ADDED_TOKENS

    base, added = list(small_vocab()), [token.content for token in ADDED_TOKENS]
    known = len(base) + len(added)
    special = [3 if token.special or token.content.startswith("<|") else 4 for token in ADDED_TOKENS]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen35",
        "tokenizer.ggml.tokens": [*base, *added, *(f"[PAD{i}]" for i in range(known, rows))],
        "tokenizer.ggml.token_type": [*len(base) * [1], *special, *(rows - known) * [5]],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in small_merges()],
        "tokenizer.ggml.eos_token_id": len(base) + 2,
        "tokenizer.ggml.padding_token_id": len(base),
        "tokenizer.ggml.add_bos_token": False,
    }


def vision_metadata(vision: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a `vision_config`."""
    keys = {
        "projection_dim": vision["out_hidden_size"],
        "image_size": 48,
        "patch_size": vision["patch_size"],
        "embedding_length": vision["hidden_size"],
        "feed_forward_length": vision["intermediate_size"],
        "block_count": vision["depth"],
        "attention.head_count": vision["num_heads"],
        "attention.layer_norm_epsilon": 1e-6,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "spatial_merge_size": 2,
        "is_deepstack_layers": [False] * vision["depth"],
    }
    found = {"general.architecture": "clip", "general.type": "mmproj", "clip.has_vision_encoder": True}
    found |= {"clip.projector_type": "qwen3vl_merger", "clip.use_gelu": True}
    return found | {f"clip.vision.{key}": content for key, content in keys.items()}


def text_tensors(directory: Path, raw: dict[str, Any], kind: int = BF16) -> dict[str, Any]:
    """The text and MTP tensors of a checkpoint as the converter writes them: matrices in `kind`, all else in F32."""
    checkpoint, sizes = open_checkpoint(directory), raw["text_config"]
    found = {}
    for name, row in checkpoint.table.items():
        if row.component != "vision":
            values = np.ascontiguousarray(converted(name, checkpoint.read(name).float32(), sizes))
            plain = values.ndim == 1 or row.role == "conv"
            found[new_name(name, sizes["num_hidden_layers"])] = stored(values, F32 if plain else kind)
    return found


def vision_tensors(directory: Path, kind: int = BF16) -> dict[str, Any]:
    """The tensors of the vision tower as the converter writes them."""
    checkpoint, found = open_checkpoint(directory), {}
    top = {"patch_embed.proj": "v.patch_embd", "pos_embed": "v.position_embd", "merger.norm": "v.post_ln",
           "merger.linear_fc1": "mm.0", "merger.linear_fc2": "mm.2"}  # fmt: skip
    for name, row in checkpoint.table.items():
        if row.component != "vision":
            continue
        values = checkpoint.read(name).float32()
        module, ending = name.removeprefix("model.visual.").rsplit(".", 1)
        if module not in top:
            _, number, rest = module.split(".", 2)
            new = f"v.blk.{number}.{_TOWER[rest]}.{ending}"
        else:
            new = f"{top[module]}.{ending}"
        if values.ndim == 5:
            for frame in range(values.shape[2]):
                one = np.ascontiguousarray(values[:, :, frame])
                found[new + (f".{frame}" if frame else "")] = stored(one, F32)
        else:
            found[new] = stored(values, F32 if values.ndim == 1 or new.startswith("v.position") else kind)
    return found
