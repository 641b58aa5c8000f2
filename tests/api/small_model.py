"""Small checkpoints with a tokenizer: random weights, so their words mean nothing but everything else is real."""

from __future__ import annotations

import json
from pathlib import Path

from ingot.prompt import ADDED_TOKENS
from ingot.store import write_random_checkpoint
from tests.model.small import RAW
from tests.prompt.official import TEMPLATES
from tests.prompt.small_tokenizer import write_small_tokenizer

PATCH, MERGE = 4, 2


def write_small_model(path: Path, padding: int = 5, **changes) -> Path:
    """config.json, weights and tokenizer files; the embedding has `padding` rows beyond the tokenizer's ids."""
    vocabulary = write_small_tokenizer(path)
    write_random_checkpoint(path, RAW | {"vocab_size": vocabulary + padding} | changes, dtype="f32")
    return path


def write_seeing_model(path: Path, **changes) -> Path:
    """The same with a vision tower that sees 16 to 400 patches of 4 x 4 pixels, merged 2 x 2."""
    vocabulary = write_small_tokenizer(path)
    ids = {token.content: vocabulary - len(ADDED_TOKENS) + n for n, token in enumerate(ADDED_TOKENS)}
    text = RAW | {"vocab_size": vocabulary, "max_position_embeddings": 300} | changes
    tower = {
        "depth": 1,
        "hidden_size": 24,
        "num_heads": 2,
        "intermediate_size": 30,
        "out_hidden_size": text["hidden_size"],
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "num_position_embeddings": 25,
    }
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens = {key: ids[f"<|{name}|>"] for key, name in zip(keys, names, strict=True)}
    config = {"model_type": "qwen3_5", "text_config": text, "vision_config": tower, "tie_word_embeddings": False}
    write_random_checkpoint(path, config | tokens, dtype="f32", mtp=False, vision=True)
    budget = {"shortest_edge": 16 * PATCH**2, "longest_edge": 400 * PATCH**2}
    (path / "preprocessor_config.json").write_text(json.dumps({"size": budget}))
    (path / "chat_template.jinja").write_text(TEMPLATES["0.8B_2B"])
    return path
