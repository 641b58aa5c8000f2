"""Finding the weights of a directory: one file, an index and its shards, or several files without an index."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ingot.spec.text_file import read_json, shown
from ingot.store.gguf import GGUFFile
from ingot.store.safetensors import NAME_LIMIT, SafetensorsFile

CUT = "hint: the download or copy is not whole: get this file too; `ingot pull` fetches a model of the hub and goes on"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_NUMBERED = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.safetensors)$")
F = TypeVar("F", SafetensorsFile, GGUFFile)


def open_shards(directory: Path, accepts: Callable[[str], bool]) -> dict[str, SafetensorsFile]:
    """Tensor name -> the open file that holds it, for every tensor of the checkpoint.

    Raises ValueError for what an index and its shards can disagree about; `accepts(name)` tells which tensors
    may be in a shard without being in the index.
    """
    if (directory / INDEX).is_file():
        return _open_indexed(directory, accepts)
    if (directory / SINGLE).is_file():
        return holders([SafetensorsFile(directory / SINGLE)])
    found = sorted(directory.glob("*.safetensors"))
    _check_numbering(directory, {path.name for path in found})
    return holders([SafetensorsFile(path) for path in found])


def holders(files: Iterable[F]) -> dict[str, F]:
    """Which of the files holds each tensor; ValueError for one that two of them hold."""
    holder: dict[str, F] = {}
    for file in files:
        for name in file.names:
            if name in holder:
                raise ValueError(f"{file.path}: tensor {shown(name)} is in {holder[name].path.name} too")
            holder[name] = file
    return holder


def _check_numbering(directory: Path, present: set[str]) -> None:
    """Shards say how many they are: a missing one is named even when there is no index."""
    for name in sorted(present):
        match = _NUMBERED.match(name)
        if not match:
            continue
        for number in range(1, int(match["count"]) + 1):
            sibling = f"{match['stem']}-{number:05d}-of-{match['count']}{match['end']}"
            if sibling not in present:
                raise ValueError(f"{directory / sibling}: this shard is missing (there is a {name})\n{CUT}")


def _open_indexed(directory: Path, accepts: Callable[[str], bool]) -> dict[str, SafetensorsFile]:
    index = directory / INDEX
    weight_map = read_index(index)
    shards = sorted(set(weight_map.values()))
    if (directory / SINGLE).is_file() and SINGLE not in shards:
        raise ValueError(
            f"{directory}: holds both {SINGLE} and an index of other files; which one is meant is not clear\n"
            f"hint: remove {SINGLE}, or {INDEX} and its shards"
        )
    for shard in shards:
        if not (directory / shard).is_file():
            owed = next(name for name, file in weight_map.items() if file == shard)
            raise ValueError(f"{directory / shard}: this shard is missing; {INDEX} puts tensor {owed!r} there\n{CUT}")
    tensors = holders([SafetensorsFile(directory / shard) for shard in shards])
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise ValueError(f"{directory / shard}: tensor {name!r} is not in this file, where {INDEX} puts it")
    for name, file in tensors.items():
        if name not in weight_map and not accepts(name):
            raise ValueError(f"{file.path}: tensor {name!r} is in this file but not in {INDEX}")
    return tensors


def read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name beside the index; ValueError for anything else, a way out of the directory included."""
    raw: Any = read_json(path)
    weight_map = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{path}: has no weight_map from tensor names to files")
    for name, shard in weight_map.items():
        if len(name) > NAME_LIMIT:
            raise ValueError(f"{path}: names a tensor in {len(name)} characters; {NAME_LIMIT} are the most")
        if not isinstance(shard, str) or not _is_plain(shard):
            raise ValueError(
                f"{path}: puts tensor {shown(name)} into {shown(shard)}; "
                "the name of a *.safetensors file beside it is needed"
            )
    return weight_map


def _is_plain(shard: str) -> bool:
    plain = shard.endswith(".safetensors") and not any(char in shard for char in "/\\:\0")
    return plain and len(shard.encode("utf-8", "replace")) <= 255 and shard.isprintable()
