"""Recognising directories that hold the model in another tool's form, and saying why they are refused.

Reading them as if they were Hugging Face checkpoints would give wrong answers, not errors. What MLX tools wrote without
quantising it is read (`ingot.store.mlx`), if its names and shapes are all MLX's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ingot.store.mapped import TensorInfo
from ingot.store.mlx import TEXT
from ingot.store.safetensors import SafetensorsFile
from ingot.store.tensor import FLOATING

_QUANTISED_ENDINGS = (
    ".scales", ".biases", ".qweight", ".qzeros", ".g_idx", ".absmax", ".quant_map", ".weight_packed", ".weight_scale",
    ".weight_scale_inv", ".weight_scale_2", ".weight_zero_point", ".input_scale", ".SCB",
)  # fmt: skip
_ADAPTER_ENDINGS = (".lora_A.weight", ".lora_B.weight", ".lora_A.default.weight", ".lora_B.default.weight")
PICKLES = (".bin", ".pt", ".pth")
PICKLE = (
    "a PyTorch pickle, which can run code when read; safetensors is read\n"
    "hint: get the model as safetensors; one that you trust transformers converts: `from_pretrained`, `save_pretrained`"
)
_ORIGINAL = "hint: get the original Hugging Face checkpoint, for example `Qwen/Qwen3.5-0.8B`"


def refuse_foreign_files(directory: Path) -> None:
    """Raise ValueError, saying what the directory holds, when no safetensors file in it could be the model."""
    names = sorted(path.name for path in directory.iterdir())
    safetensors = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if safetensors and not all(name.startswith("adapter_") for name in safetensors):
        return
    if safetensors or "adapter_config.json" in names:
        raise ValueError(f"{directory}: holds a LoRA adapter, not a model\nhint: merge it into its base model first")
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf:
        raise ValueError(
            f"{directory}: holds {gguf[0]}, which is not a model by itself, but a vision tower or a later part of one\n"
            "hint: get the model's GGUF file too"
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise ValueError(f"{directory}: holds {pickles[0]}, {PICKLE}")
    content = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
    raise ValueError(f"{directory}: holds no *.safetensors file (it holds {content}){_models_in(directory, names)}")


def _models_in(directory: Path, names: list[str]) -> str:
    """A hint line with the models one level below: the directory above is given by mistake."""
    below = [
        str(directory / name)
        for name in names
        if (directory / name / "config.json").is_file() or next((directory / name).glob("*.gguf"), None)
    ]
    return f"\nhint: give one of the models in it: {', '.join(below[:4])}" if below else ""


def refuse_foreign_tensors(files: Mapping[str, SafetensorsFile], infos: Mapping[str, TensorInfo]) -> None:
    """Raise ValueError when names, shapes or dtypes say that another tool has converted or quantised the tensors."""
    for name, info in infos.items():
        at = f"{files[name].path}: tensor {name!r}"
        if name.endswith(_ADAPTER_ENDINGS):
            raise ValueError(
                f"{at} belongs to a LoRA adapter, not to a model\nhint: merge it into its base model first"
            )
        if name.endswith(_QUANTISED_ENDINGS) or info.dtype.startswith("F8"):
            raise ValueError(
                f"{at} ({info.dtype}) belongs to a quantised checkpoint; weights in {', '.join(FLOATING)} are read\n"
                f"{_ORIGINAL}; Ingot quantises it itself"
            )
        if _is_conv(name) and name.startswith(TEXT) and not _is_mlx_shape(info.shape):
            raise ValueError(
                f"{at} is named as MLX does, but has shape {list(info.shape)}, not [channels, width, 1]: whether the "
                f"norms contain the 1 of 1 + w cannot be told\n{_ORIGINAL}"
            )
        if _is_conv(name) and not name.startswith(TEXT) and _is_mlx_shape(info.shape):
            raise ValueError(
                f"{at} has shape {list(info.shape)}, [channels, width, 1] as MLX stores it; Hugging Face has "
                f"[channels, 1, width], and MLX's norms already contain the 1 of 1 + w\n{_ORIGINAL}"
            )


def _is_conv(name: str) -> bool:
    return name.endswith("linear_attn.conv1d.weight")


def _is_mlx_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[1] > 1 and shape[2] == 1
