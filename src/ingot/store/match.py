"""Holding the files' tensors against the weights table: every row there, right in shape and dtype, nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from ingot.spec import Weight
from ingot.store.blocks import BLOCKS, QuantisedTensor
from ingot.store.mapped import TensorInfo
from ingot.store.tensor import FLOATING, Tensor

_OPTIONAL = ("mtp", "vision")  # components a file may lack: transformers drops `mtp.*` when it saves
_PREFIXES = ("model.language_model.", "model.")  # of the decoder in multimodal and in text-only files
_EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
_COMPARED_AT_ONCE = 1 << 22  # bytes


class WeightFile(Protocol):
    """An open file of weights."""

    @property
    def path(self) -> Path: ...
    @property
    def identity(self) -> tuple[object, ...]: ...
    def info(self, name: str) -> TensorInfo: ...
    def tensor(self, name: str) -> Tensor | QuantisedTensor: ...
    def release(self, name: str) -> None: ...


Files = Mapping[str, WeightFile]
Infos = Mapping[str, TensorInfo]


def stored_names(table: Mapping[str, Weight], prefix: str, infos: Infos) -> dict[str, str]:
    """Table name -> name in the files.

    They differ only where a text-only file (`model.*`) has a multimodal config, or the other way round.
    """
    found = next((candidate for candidate in _PREFIXES if candidate + _EMBEDDING in infos), prefix)
    return {
        name: found + name.removeprefix(prefix) if row.component == "text" and name.startswith(prefix) else name
        for name, row in table.items()
    }


def present_rows(
    where: Path, table: Mapping[str, Weight], stored: Mapping[str, str], infos: Infos
) -> dict[str, Weight]:
    """The table without the components that the files lack as a whole; ValueError for a part that is missing."""
    absent = set()
    for component in ("text", *_OPTIONAL):
        names = [name for name, row in table.items() if row.component == component]
        missing = [stored[name] for name in names if stored[name] not in infos]
        if missing and component in _OPTIONAL and len(missing) == len(names):
            absent.add(component)
        elif missing:
            more = f" (and {len(missing) - 1} more of its {len(names)})" if len(missing) > 1 else ""
            what = f"tensor {missing[0]!r} of the {component} model is missing{more}"
            raise ValueError(f"{where}: {what}{_cure(missing)}")
    return {name: row for name, row in table.items() if row.component not in absent}


def _cure(missing: list[str]) -> str:
    if missing != [HEAD]:
        return ""
    return "\nhint: when the head shares the embedding, config.json says tie_word_embeddings: true at its top level"


def check_weights(
    files: Files,
    infos: Infos,
    table: Mapping[str, Weight],
    stored: Mapping[str, str],
    accepts: Callable[[str], bool],
    described_by: str = "config.json",
) -> None:
    """Raise ValueError for a tensor that is unknown (and not accepted), mis-shaped or mis-typed; `described_by` says
    what the table follows from."""
    known = {stored_name: table[name] for name, stored_name in stored.items()}
    for name, info in infos.items():
        if name in known:
            _check_weight(f"{files[name].path}: tensor {name!r}", known[name], info, described_by)
        elif not accepts(name):
            raise ValueError(
                f"{files[name].path}: tensor {name!r} ({info.dtype} {list(info.shape)}) is not part of the model "
                f"that {described_by} describes\n"
                f"hint: pass accept=['{name}'] to ignore it; patterns such as 'mtp.*' work too"
            )


def _check_weight(where: str, weight: Weight, info: TensorInfo, described_by: str) -> None:
    if info.shape != weight.shape:
        raise ValueError(f"{where} has shape {list(info.shape)}; {described_by} asks for {list(weight.shape)}")
    if info.dtype not in FLOATING and info.dtype not in BLOCKS:
        raise ValueError(f"{where} has dtype {info.dtype}; weights are read from {', '.join(FLOATING)}")


def check_tied_head(files: Files, infos: Infos, table: Mapping[str, Weight], embedding: str) -> None:
    """A tied checkpoint may store the head all the same, if it has the embedding's very bytes."""
    if HEAD in table or HEAD not in infos:
        return
    head, source = files[HEAD].tensor(HEAD), files[embedding].tensor(embedding)
    assert isinstance(head, Tensor)
    assert isinstance(source, Tensor)  # safetensors have no blocks
    same = head.dtype == source.dtype and head.shape == source.shape and _same_bytes(head.array, source.array)
    files[HEAD].release(HEAD)
    files[embedding].release(embedding)
    if not same:
        raise ValueError(
            f"{files[HEAD].path}: tensor {HEAD!r} differs from {embedding!r}, though config.json says "
            "tie_word_embeddings: true\nhint: if the head is its own, set tie_word_embeddings to false at the top level"
        )


def _same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    a, b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    pieces = range(0, a.size, _COMPARED_AT_ONCE)
    return all(np.array_equal(a[i : i + _COMPARED_AT_ONCE], b[i : i + _COMPARED_AT_ONCE]) for i in pieces)


def majority_dtype(infos: Iterable[TensorInfo]) -> str:
    """The dtype that most bytes are stored in."""
    count: Counter[str] = Counter()
    for info in infos:
        count[info.dtype] += info.end - info.begin
    return count.most_common(1)[0][0]
