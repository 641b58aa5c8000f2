"""Finding the GGUF files of a model (its shards, the vision tower beside it) and opening them as one checkpoint."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ingot.spec import Config, Weight, parse_config, weights_table
from ingot.spec.text_file import shown
from ingot.store.gguf import GGUFFile, is_gguf
from ingot.store.gguf_config import TEXT, VISION, generation_config, text_config, vision_config, vision_token_ids
from ingot.store.gguf_names import GGUFWeights, gguf_name
from ingot.store.shards import holders

_NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
_EMBEDDING, _POSITIONS = "token_embd.weight", "v.position_embd.weight"


@dataclass(frozen=True)
class Embedded:
    """What a GGUF holds beside weights, and a checkpoint directory in files: `tokenizer` has the metadata of that name,
    from a header of `nbytes`; the others are what the configuration files of these names would say."""

    tokenizer: Mapping[str, Any]
    nbytes: int
    identity: tuple[object, ...]
    generation_config: Mapping[str, Any]
    preprocessor_config: Mapping[str, Any]


@dataclass(frozen=True)
class GGUFModel:
    """The open files: who holds which tensor of the GGUFs, the configuration, and where each weight lies."""

    path: Path
    files: dict[str, GGUFWeights]
    config: Config
    stored: dict[str, str]
    embedded: Embedded


def gguf_of(path: Path) -> Path | None:
    """The GGUF file that `path` means: itself, or the only model's in a directory without safetensors; None when it
    means no GGUF. ValueError when a directory holds several."""
    if path.is_file():
        return path if is_gguf(path) else None
    if not path.is_dir() or any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        return None
    models = [found for found in sorted(path.glob("*.gguf")) if not _is_mmproj(found) and _is_first(found)]
    if len(models) > 1:
        names = ", ".join(found.name for found in models[:4]) + (", ..." if len(models) > 4 else "")
        raise ValueError(f"{path}: holds {len(models)} GGUF models: {names}\nhint: give one of the files")
    return models[0] if models else None


def open_gguf(path: Path, mmproj: Path | None, accept: tuple[str, ...]) -> GGUFModel:
    """The model in a GGUF file and its shards, with the vision tower in `mmproj` (None: in the only mmproj*.gguf beside
    it, if that fits)."""
    shards = _open_shards(path)
    model = shards[0]
    holder = holders(shards)
    tower = _tower(model, mmproj)
    vocabulary = _size(holder, _EMBEDDING, model.path, 2)
    _check_count(model, "qwen35.block_count", len(holder))
    raw: dict[str, Any] = {"model_type": "qwen3_5", "tie_word_embeddings": "output.weight" not in holder}
    raw["text_config"] = text_config(model.path, model.metadata, vocabulary, accept)
    preprocessing: dict[str, Any] = {}
    if tower is not None:
        raw["vision_config"], preprocessing = _vision(tower, accept)
        raw |= vision_token_ids(model.metadata)
        holder |= holders([tower])
    try:
        config = parse_config(raw)
    except ValueError as error:
        raise ValueError(f"{model.path}: {error}") from None
    table = weights_table(config)
    stored = {name: gguf_name(name, config.prefix, config.text.num_hidden_layers) for name in table}
    placed = {stored[name]: weight for name, weight in table.items()}
    return GGUFModel(model.path, _weights(holder, placed, config), config, stored, _embedded(model, preprocessing))


def _weights(holder: dict[str, GGUFFile], placed: dict[str, Weight], config: Config) -> dict[str, GGUFWeights]:
    views = {file: GGUFWeights(file, placed, config.text) for file in holder.values()}
    return {name: view for view in views.values() for name in view.names}


def _embedded(model: GGUFFile, preprocessing: dict[str, Any]) -> Embedded:
    tokenizer = {key: value for key, value in model.metadata.items() if key.startswith("tokenizer.")}
    generation = generation_config(model.path, model.metadata)
    return Embedded(tokenizer, model.header_bytes, model.identity, generation, preprocessing)


def _open_shards(path: Path) -> list[GGUFFile]:
    """The files of a model, the one with the metadata first."""
    match = _NUMBERED.match(path.name)
    if match is None:
        file = _file(path, TEXT)
        count = _integer(file, "split.count", 1)
        if count not in (0, 1):
            raise ValueError(f"{path}: is one of {count} parts, which must be named NAME-00001-of-{count:05d}.gguf")
        return [file]
    count = int(match["count"])
    siblings = [path.with_name(f"{match['stem']}-{i:05d}-of-{match['count']}.gguf") for i in range(1, count + 1)]
    for sibling in siblings:
        if not sibling.is_file():
            raise ValueError(f"{sibling}: this part of the model is missing (there is a {path.name})")
    files = [_file(sibling, TEXT if i == 0 else None) for i, sibling in enumerate(siblings)]
    for number, file in enumerate(files):
        told = _integer(file, "split.no", number), _integer(file, "split.count", count)
        if told != (number, count):
            raise ValueError(
                f"{file.path}: says that it is part {told[0]} (from 0) of {told[1]}, not what its name says"
            )
    return files


def _file(path: Path, architecture: str | None) -> GGUFFile:
    """The open file. A vocabulary takes 0.2 s to step over, and `ingot chat` looks at a model before it loads it: what
    has not changed is not read again."""
    try:
        about = path.stat()
    except OSError:
        return GGUFFile(path, architecture)  # has the sentence
    return _read(path, architecture, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=2)
def _read(path: Path, architecture: str | None, *about: int) -> GGUFFile:
    return GGUFFile(path, architecture)


def _integer(file: GGUFFile, key: str, default: int) -> int:
    value = file.metadata.get(key, default)
    if not isinstance(value, int):
        raise ValueError(f"{file.path}: metadata {shown(key)} is {shown(value)}; int is needed")
    return value


def _tower(model: GGUFFile, mmproj: Path | None) -> GGUFFile | None:
    """The vision tower's file: the one that is asked for, or the only one beside the model, if it is this model's."""
    if mmproj is not None:
        return _file(mmproj, VISION)
    beside = [path for path in sorted(model.path.parent.glob("*.gguf")) if _is_mmproj(path)]
    if len(beside) != 1:
        if beside:
            names = ", ".join(path.name for path in beside)
            warnings.warn(
                f"pictures are not seen: {names} are beside the model\nhint: give one as mmproj", stacklevel=2
            )
        return None
    tower = _file(beside[0], VISION)
    wide, needed = tower.metadata.get("clip.vision.projection_dim"), model.metadata.get("qwen35.embedding_length")
    if wide == needed:
        return tower
    warnings.warn(
        f"pictures are not seen: {beside[0].name} is of another model (it gives {wide} features, {needed} are needed)",
        stacklevel=2,
    )
    return None


def _vision(tower: GGUFFile, accept: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    holder = dict.fromkeys(tower.names, tower)
    _check_count(tower, "clip.vision.block_count", len(holder))
    positions = _size(holder, _POSITIONS, tower.path, 2)
    frames = sum(name.startswith("v.patch_embd.weight") for name in tower.names)
    return vision_config(tower.path, tower.metadata, positions, max(1, frames), accept)


def _check_count(file: GGUFFile, key: str, tensors: int) -> None:
    """A layer has tensors: what claims more of them than there are tensors is told before rows are made for them."""
    count = file.metadata.get(key)
    if isinstance(count, int) and count > tensors:
        raise ValueError(f"{file.path}: {key} is {count}, but there are {tensors} tensors")


def _size(holder: Mapping[str, GGUFFile], name: str, path: Path, rank: int) -> int:
    """Rows of an embedding, which no metadata tell."""
    if name not in holder:
        raise ValueError(f"{path}: tensor {shown(name)} is missing")
    shape = holder[name].info(name).shape
    if len(shape) != rank:
        raise ValueError(
            f"{holder[name].path}: tensor {shown(name)} has shape {list(shape)}; a table of rows is needed"
        )
    return shape[0]


def _is_mmproj(path: Path) -> bool:
    return "mmproj" in path.name.lower()


def _is_first(path: Path) -> bool:
    match = _NUMBERED.match(path.name)
    return match is None or int(match["number"]) == 1
