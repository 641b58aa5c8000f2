"""A small checkpoint with a tokenizer: random weights, so its words mean nothing but everything else is real."""

from __future__ import annotations

from pathlib import Path

from ingot.store import write_random_checkpoint
from tests.model.small import RAW
from tests.prompt.small_tokenizer import write_small_tokenizer


def write_small_model(path: Path, padding: int = 5, **changes) -> Path:
    """config.json, weights and tokenizer files; the embedding has `padding` rows beyond the tokenizer's ids."""
    vocabulary = write_small_tokenizer(path)
    write_random_checkpoint(path, RAW | {"vocab_size": vocabulary + padding} | changes, dtype="f32")
    return path
