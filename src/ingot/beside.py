"""What a checkpoint says beside its weights, from the files of its directory or from the metadata of its GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ingot.prompt import ChatTemplate
from ingot.prompt.gguf import template_from_gguf
from ingot.prompt.media import Preprocessor
from ingot.prompt.outside_text import read_json_object
from ingot.store import Checkpoint


def template_of(checkpoint: Checkpoint) -> ChatTemplate:
    """The chat template; Ingot's own where the checkpoint has none."""
    if checkpoint.embedded:
        return template_from_gguf(checkpoint.embedded.tokenizer, str(checkpoint.path))
    return ChatTemplate.from_directory(checkpoint.path)


def preprocessor_of(checkpoint: Checkpoint) -> Preprocessor | None:
    """The preprocessor of pictures; None where there is no vision tower."""
    vision = checkpoint.config.vision
    if vision is None or not checkpoint.has_vision:
        return None
    if checkpoint.embedded:
        return Preprocessor.from_configs(checkpoint.embedded.preprocessor_config, {}, vision)
    return Preprocessor.from_directory(checkpoint.path, vision)


def generation_config_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """generation_config.json, or what a GGUF says in its place; empty where there is none."""
    if checkpoint.embedded:
        return dict(checkpoint.embedded.generation_config)
    return _json(checkpoint.path / "generation_config.json")


def eos_ids_of(checkpoint: Checkpoint, generation: dict[str, Any]) -> tuple[int, ...]:
    """End-of-sequence ids that the checkpoint itself names."""
    config = {} if checkpoint.embedded else _json(checkpoint.path / "config.json")
    places = (config, config.get("text_config") or {}, generation)
    found = (place.get("eos_token_id") for place in places)
    return tuple(i for ids in found for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int))


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that need not be there."""
    return read_json_object(path) if path.is_file() else {}
