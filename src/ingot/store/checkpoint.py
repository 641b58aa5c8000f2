"""Opening a checkpoint directory: configuration, weights table and files, checked against one another before use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from ingot.spec import Config, Weight, read_config, weights_table
from ingot.store.foreign import refuse_foreign_files, refuse_foreign_tensors
from ingot.store.match import check_tied_head, check_weights, majority_dtype, present_rows, stored_names
from ingot.store.safetensors import SafetensorsFile, TensorInfo
from ingot.store.shards import open_shards
from ingot.store.tensor import Tensor

# What belongs to a checkpoint beside its weights.
COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open checkpoint: `table` has the rows of the weights that are there, all checked for shape and dtype.

    Names are those of the table (Hugging Face's). `dtype` is the stored dtype ("BF16", "F32" or "F16") of most bytes.
    """

    path: Path
    config: Config
    table: dict[str, Weight] = field(repr=False)
    has_mtp: bool
    has_vision: bool
    dtype: str
    _files: dict[str, SafetensorsFile] = field(repr=False)
    _stored: dict[str, str] = field(repr=False)

    def info(self, name: str) -> TensorInfo:
        """Stored dtype, shape and place of one weight; nothing is read."""
        return self._file(name).info(self._stored[name])

    @property
    def stored(self) -> dict[str, str]:
        """Name in the files -> name in the table, "" for a tensor that the model does without; in the table's order."""
        names = {stored: name for name, stored in self._stored.items()}
        return names | {name: "" for name in self._files if name not in names}

    def stored_info(self, stored: str) -> TensorInfo:
        """`info` by the name in the files."""
        return self._files[stored].info(stored)

    def read_stored(self, stored: str) -> Tensor:
        """A tensor by its name in the files, unchecked."""
        return self._files[stored].tensor(stored)

    def release_stored(self, stored: str) -> None:
        """Give its pages back to the system."""
        self._files[stored].release(stored)

    def identity(self) -> list[tuple[object, ...]]:
        """What tells these files from others, without reading their weights: names, sizes, times, headers."""
        return sorted({file.identity for file in self._files.values()})

    def read(self, name: str, check_finite: bool = True) -> Tensor:
        """One weight as a read-only view of its mapped file; ValueError when it holds a NaN or an infinity."""
        file = self._file(name)
        tensor = file.tensor(self._stored[name])
        bad = tensor.first_not_finite() if check_finite else None
        if bad is not None:
            place = [int(i) for i in np.unravel_index(bad, tensor.shape)]
            value = float(Tensor(tensor.array[tuple(place)].reshape(1), tensor.dtype).float32()[0])
            raise ValueError(
                f"{file.path}: tensor {self._stored[name]!r} holds {value} at {place}; weights must be finite"
            )
        return tensor

    def release(self, name: str) -> None:
        """Give the weight's pages back to the system (call it once the weight is packed)."""
        self._file(name).release(self._stored[name])

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._stored:
            raise ValueError(f"{self.path}: there is no weight {name!r} in this checkpoint")
        return self._files[self._stored[name]]


def open_checkpoint(path: str | os.PathLike[str], accept: Iterable[str] = ()) -> Checkpoint:
    """The checkpoint in the directory `path`, checked against its weights table; no weight is read yet.

    `accept` lists config keys and patterns of tensor names ("model.extra.*") to tolerate although Ingot does not know
    them. Raises ValueError (FileNotFoundError when there is no such directory), naming the file and the tensor, for
    everything that is missing, unknown, mis-shaped, mis-typed or truncated. docs/checkpoints.md has the list.
    """
    directory, accept = _directory(path), tuple(accept)
    refuse_foreign_files(directory)
    if not (directory / "config.json").is_file():
        raise ValueError(f"{directory}: holds no config.json, which tells the sizes of the model")

    def accepts(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in accept)

    files = open_shards(directory, accepts)
    infos = {name: file.info(name) for name, file in files.items()}
    refuse_foreign_tensors(files, {name: info for name, info in infos.items() if not accepts(name)})
    config = read_config(directory / "config.json", accept)
    rows = weights_table(config)
    stored = stored_names(rows, config.prefix, infos)
    paths = {file.path for file in files.values()}
    table = present_rows(paths.pop() if len(paths) == 1 else directory, rows, stored, infos)
    stored = {name: stored[name] for name in table}
    check_weights(files, infos, table, stored, accepts)
    check_tied_head(files, infos, table, stored[f"{config.prefix}embed_tokens.weight"])
    has = {weight.component for weight in table.values()}
    dtype = majority_dtype(infos[name] for name in stored.values())
    return Checkpoint(directory, config, table, "mtp" in has, "vision" in has, dtype, files, stored)


def _directory(path: str | os.PathLike[str]) -> Path:
    directory = Path(path).expanduser()
    if not directory.exists():
        raise FileNotFoundError(f"{directory}: there is no such directory")
    if not directory.is_dir():
        raise ValueError(f"{directory}: is a file; a checkpoint is a directory with config.json and *.safetensors")
    return directory
