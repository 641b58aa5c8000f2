"""Small checkpoints and raw safetensors bytes for the tests of ingot.store. No two sizes are equal."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from ingot.store import SafetensorsFile, Tensor, save_safetensors, tensor_of, write_random_checkpoint

TEXT: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "vocab_size": 97,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 9,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 20,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 1024,
    "mtp_num_hidden_layers": 1,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
    },
}
VISION: dict[str, Any] = {
    "model_type": "qwen3_5",
    "depth": 1,
    "hidden_size": 24,
    "intermediate_size": 28,
    "num_heads": 2,
    "out_hidden_size": 40,
    "num_position_embeddings": 36,
    "patch_size": 8,
}


def config(tied: bool = True, **text: Any) -> dict[str, Any]:
    """A multimodal config.json of the smallest legal size."""
    sizes = copy.deepcopy(TEXT) | text
    return {
        "model_type": "qwen3_5",
        "tie_word_embeddings": tied,
        "text_config": sizes,
        "vision_config": copy.deepcopy(VISION),
    }


def text_config(tied: bool = True, **text: Any) -> dict[str, Any]:
    """A text-only config.json."""
    return copy.deepcopy(TEXT) | {"tie_word_embeddings": tied} | text


def read_all(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, copied out of it."""
    file = SafetensorsFile(path)
    return {name: Tensor(file.tensor(name).array.copy(), file.tensor(name).dtype) for name in file.names}


def make_checkpoint(directory: Path, raw: dict[str, Any] | None = None, **options: Any) -> Path:
    """A whole checkpoint with random weights, vision and MTP included."""
    return write_random_checkpoint(directory, raw or config(), **({"vision": True} | options))


def rewrite(directory: Path, change: Any, name: str = "model.safetensors") -> None:
    """Pass the tensors of one file through `change(dict)` and save what it leaves."""
    tensors = read_all(directory / name)
    change(tensors)
    save_safetensors(directory / name, tensors.items())


def keep_decay(directory: Path, exp: Any = np.exp) -> None:
    """Give A_log values that come back from log(exp(A_log)) in fp32, as half of those about 2 do."""
    tried = np.linspace(1, 2.75, 500, dtype=np.float32)
    back = np.log(np.asarray(exp(tried), np.float64)).astype(np.float32)
    kept = np.random.default_rng(0).permutation(tried[back == tried])

    def change(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("A_log"):
                tensors[name] = tensor_of(kept[: tensor.array.size], "F32")

    rewrite(directory, change)


def shard(directory: Path, names: tuple[str, ...] = ("a.safetensors", "b.safetensors"), index: bool = True) -> None:
    """Split model.safetensors over `names`, with or without an index."""
    tensors = read_all(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {tensor: names[i % len(names)] for i, tensor in enumerate(sorted(tensors))}
    for name in names:
        save_safetensors(directory / name, [(t, tensors[t]) for t in tensors if weight_map[t] == name])
    if index:
        write_index(directory, weight_map)


def write_index(directory: Path, weight_map: Any) -> None:
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(text)


def raw_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a safetensors file with any header, true or not; `length` overrides the header length field."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def normal(*shape: int, dtype: str = "F32", seed: int = 0) -> Tensor:
    return tensor_of(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)
