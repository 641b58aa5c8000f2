"""The configuration that a GGUF's metadata tell, in the words of a Hugging Face config.json, and read as strictly.

A key of the architecture is used here, known to change nothing, or an error.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ingot.spec.config import FULL, LINEAR
from ingot.spec.text_file import shown
from ingot.store.gguf import Strings

TEXT, VISION = "qwen35", "clip"
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type of added tokens
_VISION_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_UNUSED = {
    "qwen35.vocab_size",  # the embedding tells it
    "clip.has_text_encoder",
    "clip.has_audio_encoder",  # checked below
    "clip.has_llava_projector",
    "clip.vision.projector_type",
    "clip.vision.attention.layer_norm_epsilon",  # the converter writes the decoder's there; the tower's is 1e-6
}
_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


class _Metadata:
    """The metadata of one file; remembers which keys were asked for."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path, self._metadata, self._asked = path, metadata, set(_UNUSED)

    def __call__(self, key: str, kind: type = int, default: Any = None) -> Any:
        """The value of `key`; ValueError when it is missing without a default, or of another kind."""
        self._asked.add(key)
        value: Any = self._metadata.get(key, default)
        if value is None:
            raise ValueError(f"{self.path}: metadata {shown(key)} is missing")
        allowed: Any = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self.path}: metadata {shown(key)} is {shown(value)}; {kind.__name__} is needed")
        if kind is float and not math.isfinite(float(value)):
            raise ValueError(f"{self.path}: metadata {shown(key)} is {value}; a finite number is needed")
        return value

    def numbers(self, key: str, default: list[Any]) -> list[Any]:
        """The numbers or bools (0 and 1) in an array."""
        self._asked.add(key)
        value = self._metadata.get(key)
        if value is None:
            return default
        if not isinstance(value, array):
            raise ValueError(f"{self.path}: metadata {shown(key)} is {shown(value)}; an array of numbers is needed")
        return value.tolist()

    def has(self, key: str) -> bool:
        return key in self._metadata

    def refuse_unknown(self, architecture: str, accept: tuple[str, ...]) -> None:
        for key in self._metadata:
            if key.startswith(f"{architecture}.") and key not in self._asked and key not in accept:
                raise ValueError(
                    f"{self.path}: {key} is not a key Ingot knows, so it cannot tell whether it changes the model\n"
                    f"hint: pass accept=['{key}'] if you know that it does not"
                )


def text_config(path: Path, metadata: Mapping[str, Any], vocabulary: int, accept: tuple[str, ...]) -> dict[str, Any]:
    """`text_config` of a config.json; `vocabulary` is the number of the embedding's rows."""
    read = _Metadata(path, metadata)
    if metadata.get("general.type", "model") != "model":
        raise ValueError(f"{path}: general.type is {metadata['general.type']!r:.60}; a 'model' is needed")
    blocks, mtp = read("qwen35.block_count"), read("qwen35.nextn_predict_layers", default=0)
    head, values = read("qwen35.attention.key_length"), read("qwen35.attention.value_length")
    inner, value_heads = read("qwen35.ssm.inner_size"), read("qwen35.ssm.time_step_rank")
    if read("qwen35.n_deepstack_layers", default=0) != 0:
        raise ValueError(f"{path}: has deepstack layers; qwen35 has none")
    if head != values:
        raise ValueError(f"{path}: keys of {head} and values of {values} dimensions; qwen35 has one size")
    if value_heads < 1 or inner % value_heads:
        raise ValueError(f"{path}: qwen35.ssm.inner_size is {inner}, which {value_heads} value heads do not divide")
    config = {
        "model_type": "qwen3_5_text",
        "vocab_size": vocabulary,
        "hidden_size": read("qwen35.embedding_length"),
        "intermediate_size": read("qwen35.feed_forward_length"),
        "num_hidden_layers": blocks - mtp,
        "num_attention_heads": read("qwen35.attention.head_count"),
        "num_key_value_heads": read("qwen35.attention.head_count_kv"),
        "head_dim": head,
        "linear_num_key_heads": read("qwen35.ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": read("qwen35.ssm.state_size"),
        "linear_value_head_dim": inner // value_heads,
        "linear_conv_kernel_dim": read("qwen35.ssm.conv_kernel"),
        "rms_norm_eps": _decimal(read("qwen35.attention.layer_norm_rms_epsilon", float)),
        "max_position_embeddings": read("qwen35.context_length"),
        "mtp_num_hidden_layers": mtp,
        "rope_parameters": _rope(read, head),
        **_layer_types(read, blocks, mtp),
    }
    read.refuse_unknown(TEXT, accept)
    return config


def _layer_types(read: _Metadata, blocks: int, mtp: int) -> dict[str, Any]:
    interval = read("qwen35.full_attention_interval", default=4)
    recurrent = read.numbers("qwen35.attention.recurrent_layers", [])
    if not recurrent:
        return {"full_attention_interval": interval}
    if len(recurrent) != blocks:
        raise ValueError(f"{read.path}: recurrent_layers has {len(recurrent)} entries; block_count is {blocks}")
    return {"layer_types": [LINEAR if linear else FULL for linear in recurrent[: blocks - mtp]]}


def _rope(read: _Metadata, head_dim: int) -> dict[str, Any]:
    rotary, sections = (
        read("qwen35.rope.dimension_count"),
        read.numbers("qwen35.rope.dimension_sections", [11, 11, 10, 0]),
    )
    if len(sections) != 4 or sections[3] != 0:
        raise ValueError(f"{read.path}: qwen35.rope.dimension_sections is {sections}; three counts and a 0 are needed")
    factor = rotary / max(1, head_dim)
    if int(head_dim * factor) < rotary:  # the config's fraction is cut to a whole number of dimensions
        factor = math.nextafter(factor, 2)
    kind = "default"
    if read.has("qwen35.rope.scaling.type"):
        kind = {"none": "default"}.get(found := read("qwen35.rope.scaling.type", str), found)
    longer = {}
    if kind == "yarn":
        longer["factor"] = _decimal(read("qwen35.rope.scaling.factor", float))
        if read.has("qwen35.rope.scaling.original_context_length"):
            longer["original_max_position_embeddings"] = read("qwen35.rope.scaling.original_context_length", int)
    return longer | {
        "rope_type": kind,
        "rope_theta": _decimal(read("qwen35.rope.freq_base", float)),
        "partial_rotary_factor": factor,
        "mrope_section": sections[:3],
        "mrope_interleaved": True,
    }


def _decimal(value: float) -> float:
    """The shortest decimal that a float32 is nearest to: 1e-06, not 9.999999974752427e-07."""
    return float(str(np.float32(value)))


def vision_config(
    path: Path, metadata: Mapping[str, Any], positions: int, frames: int, accept: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`vision_config` of a config.json, and a preprocessor_config.json; `positions` and `frames` are sizes of the
    tower's embeddings."""
    read = _Metadata(path, metadata)
    kind = read("clip.projector_type", str)
    if kind != "qwen3vl_merger":
        raise ValueError(f"{path}: clip.projector_type is {kind!r:.60}; the tower of Qwen3.5 has 'qwen3vl_merger'")
    if not read("clip.has_vision_encoder", bool, False) or metadata.get("clip.has_audio_encoder"):
        raise ValueError(f"{path}: is not a vision tower alone; that of Qwen3.5 has no audio encoder")
    if not read("clip.use_gelu", bool, True) or read("clip.use_silu", bool, False):
        raise ValueError(f"{path}: its activation is not GELU, which the tower of Qwen3.5 has")
    if any(read.numbers("clip.vision.is_deepstack_layers", [])):
        raise ValueError(f"{path}: has deepstack layers; the tower of Qwen3.5 has none")
    config = {
        "depth": read("clip.vision.block_count"),
        "hidden_size": read("clip.vision.embedding_length"),
        "intermediate_size": read("clip.vision.feed_forward_length"),
        "num_heads": read("clip.vision.attention.head_count"),
        "out_hidden_size": read("clip.vision.projection_dim"),
        "num_position_embeddings": positions,
        "patch_size": read("clip.vision.patch_size"),
        "spatial_merge_size": read("clip.vision.spatial_merge_size", default=2),
        "temporal_patch_size": frames,
    }
    read("clip.vision.image_size", default=0)  # the side that the position embeddings stand for
    preprocessing = _preprocessing(read)
    read.refuse_unknown(VISION, accept)
    return config, preprocessing


def _preprocessing(read: _Metadata) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name in ("image_mean", "image_std"):
        values = [_decimal(value) for value in read.numbers(f"clip.vision.{name}", [0.5] * 3)]
        if len(values) != 3 or not all(0 <= v < 256 for v in values) or (name == "image_std" and 0 in values):
            raise ValueError(f"{read.path}: clip.vision.{name} is {values}; three positive numbers are needed")
        config[name] = values
    for key, name in (("image_min_pixels", "min_pixels"), ("image_max_pixels", "max_pixels")):
        if read.has(f"clip.vision.{key}"):
            config[name] = read(f"clip.vision.{key}")
    return config


def generation_config(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a generation_config.json would say: defaults of sampling, and the ids that end a text."""
    read = _Metadata(path, metadata)
    config: dict[str, Any] = {}
    for key, name in _SAMPLING.items():
        if read.has(f"general.sampling.{key}"):
            value = read(f"general.sampling.{key}", float)
            config[name] = _decimal(value) if isinstance(value, float) else value
    ends = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot")]
    config["eos_token_id"] = sorted({read(key) for key in ends if read.has(key)})
    return config


def vision_token_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The ids of the tokens that stand for pictures, as a config.json names them; what is not there keeps the official
    id."""
    tokens, types = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, Strings) or not isinstance(types, array) or len(types) != len(tokens):
        return {}  # whoever makes the tokenizer will tell
    added = {tokens[int(i)]: int(i) for i in np.flatnonzero(np.isin(types, (_CONTROL, _USER_DEFINED)))}
    return {name: added[token] for name, token in _VISION_TOKENS.items() if token in added}
