"""Small random checkpoints that transformers itself saved, with unequal dimensions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5ForConditionalGeneration
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5Config, Qwen3_5TextConfig

from ingot.prompt import ADDED_TOKENS
from tests.prompt.official import TEMPLATES
from tests.prompt.small_tokenizer import write_small_tokenizer


def draw_text_config(seed: int) -> dict[str, Any]:
    """A legal decoder configuration in which no two dimensions are equal by design."""
    r = random.Random(seed)
    key_heads, kv_heads = r.choice([1, 2, 3]), r.choice([1, 2, 3])
    head_dim = r.choice([16, 24, 40])
    rotary = r.choice([d for d in (8, 12, 20) if d <= head_dim])
    pairs = rotary // 2
    h, w = r.choice([(pairs // 3, pairs // 3), (0, pairs // 3)])
    layers = r.choice([4, 5, 8])
    kinds = ["full_attention" if (i + 1) % 4 == 0 else "linear_attention" for i in range(layers)]
    if seed % 5 == 4:
        r.shuffle(kinds)  # layer_types need not follow the interval
    return {
        "vocab_size": r.randrange(90, 150),
        "hidden_size": r.choice([33, 40, 52]),
        "intermediate_size": r.choice([57, 70, 88]),
        "num_hidden_layers": layers,
        "layer_types": kinds,
        "num_attention_heads": kv_heads * r.choice([1, 2, 4]),
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": key_heads * (1 + seed % 3),
        "linear_key_head_dim": r.choice([8, 18, 32]),
        "linear_value_head_dim": r.choice([12, 20, 48]),
        "linear_conv_kernel_dim": r.choice([4, 4, 3]),
        "rms_norm_eps": r.choice([1e-6, 1e-5]),
        "max_position_embeddings": 4096,
        "tie_word_embeddings": bool(seed % 2),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": r.choice([1e4, 1e7]),
            "partial_rotary_factor": rotary / head_dim,
            "mrope_section": [pairs - h - w, h, w],
            "mrope_interleaved": True,
        },
    }


def save_checkpoint(path: Path, seed: int, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write a random checkpoint as transformers saves it: odd seeds tied, every third multimodal; weights large enough
    to matter."""
    torch.manual_seed(seed)
    text = draw_text_config(seed) | changes
    if seed % 3 == 2:
        vision = {
            "depth": 1,
            "hidden_size": 24,
            "num_heads": 2,
            "intermediate_size": 30,
            "out_hidden_size": text["hidden_size"],
        }
        tie = text["tie_word_embeddings"]
        config = Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=tie)
        model = Qwen3_5ForConditionalGeneration(config)
    else:
        model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**text))
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.endswith("norm.weight") or "norm" in name:
                parameter += 0.3 * torch.randn_like(parameter)  # 1 + w, or w, must matter
            elif parameter.dim() == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
            elif name.endswith("dt_bias"):
                parameter.uniform_(-4, 1)  # decays from almost nothing to almost all
    model.to(dtype).save_pretrained(path)
    return path


def reference_model(path: Path, seed: int) -> Any:
    """The transformers model of a saved checkpoint, in fp32."""
    cls = Qwen3_5ForConditionalGeneration if seed % 3 == 2 else Qwen3_5ForCausalLM
    return cls.from_pretrained(path, dtype=torch.float32).eval()


def save_seeing_checkpoint(path: Path, seed: int, vision: dict[str, Any] | None = None) -> Path:
    """A random multimodal checkpoint with a tokenizer, a template and preprocessor configurations of its own."""
    r = random.Random(seed)
    torch.manual_seed(seed)
    vocabulary = write_small_tokenizer(path)
    first = vocabulary - len(ADDED_TOKENS)
    ids = {token.content: first + number for number, token in enumerate(ADDED_TOKENS)}
    text = draw_text_config(seed) | {"vocab_size": vocabulary}
    heads, patch = r.choice([2, 3]), r.choice([4, 6])
    tower = {
        "depth": r.choice([2, 3]),
        "hidden_size": heads * r.choice([12, 16]),
        "num_heads": heads,
        "intermediate_size": r.choice([30, 45]),
        "out_hidden_size": text["hidden_size"],
        "patch_size": patch,
        "num_position_embeddings": r.choice([25, 49]),
    } | (vision or {})
    config = Qwen3_5Config(
        text_config=text,
        vision_config=tower,
        tie_word_embeddings=text["tie_word_embeddings"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen3_5ForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if "norm" in name or name.endswith("bias"):
                parameter += 0.3 * torch.randn_like(parameter)
            elif parameter.dim() in (2, 5):
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    model.save_pretrained(path)
    shared = {
        "patch_size": patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    image = {"size": {"shortest_edge": 16 * patch**2, "longest_edge": 400 * patch**2}} | shared
    video = {"size": {"shortest_edge": 16 * patch**2, "longest_edge": 900 * patch**2}} | shared
    (path / "preprocessor_config.json").write_text(json.dumps(image))
    (path / "video_preprocessor_config.json").write_text(json.dumps(video))
    (path / "chat_template.jinja").write_text(TEMPLATES["0.8B_2B"])
    return path
