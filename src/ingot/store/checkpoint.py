"""Opening a checkpoint, a directory or a GGUF file: configuration, weights table and files, checked against one another
before use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from ingot.spec import Config, Weight, read_config, weights_table
from ingot.store.blocks import QuantisedTensor
from ingot.store.foreign import refuse_foreign_files, refuse_foreign_tensors
from ingot.store.gguf_checkpoint import Embedded, gguf_of, open_gguf
from ingot.store.mapped import TensorInfo
from ingot.store.match import (
    HEAD,
    WeightFile,
    check_tied_head,
    check_weights,
    majority_dtype,
    present_rows,
    stored_names,
)
from ingot.store.mlx import is_mlx, open_mlx
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

    Names are those of the table (Hugging Face's). `dtype` is the stored dtype ("BF16", "F32", "F16" or a quantised type
    of GGUF) of most bytes. `path` is the directory, in which the files beside the weights are, or the GGUF file, whose
    `embedded` holds what these would say.
    """

    path: Path
    config: Config
    table: dict[str, Weight] = field(repr=False)
    has_mtp: bool
    has_vision: bool
    dtype: str
    _files: Mapping[str, WeightFile] = field(repr=False)
    _stored: dict[str, str] = field(repr=False)
    embedded: Embedded | None = field(default=None, repr=False)

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

    def read_stored(self, stored: str) -> Tensor | QuantisedTensor:
        """A tensor by its name in the files, unchecked."""
        return self._files[stored].tensor(stored)

    def release_stored(self, stored: str) -> None:
        """Give its pages back to the system."""
        self._files[stored].release(stored)

    def stored_bytes(self) -> int:
        """Bytes of all weights, as stored."""
        infos = map(self.info, self.table)
        return sum(info.end - info.begin for info in infos)

    def identity(self, component: str = "text") -> list[tuple[object, ...]]:
        """What tells the files of a component from others, without reading weights: names, sizes, times, headers."""
        return sorted({self._file(name).identity for name, row in self.table.items() if row.component == component})

    def read(self, name: str, check_finite: bool = True) -> Tensor | QuantisedTensor:
        """One weight, a read-only view of its mapped file where that holds it as it is; ValueError when it holds a NaN
        or an infinity."""
        file = self._file(name)
        tensor = file.tensor(self._stored[name])
        bad = tensor.first_not_finite() if check_finite else None
        if bad is not None:
            place = [int(i) for i in np.unravel_index(bad, tensor.shape)]
            value = float(tensor.float32(slice(place[0], place[0] + 1))[0, *place[1:]])
            raise ValueError(
                f"{file.path}: tensor {self._stored[name]!r} holds {value} at {place}; weights must be finite"
            )
        return tensor

    def release(self, name: str) -> None:
        """Give the weight's pages back to the system (call it once the weight is packed)."""
        self._file(name).release(self._stored[name])

    def _file(self, name: str) -> WeightFile:
        if name not in self._stored:
            raise ValueError(f"{self.path}: there is no weight {name!r} in this checkpoint")
        return self._files[self._stored[name]]


def open_checkpoint(
    path: str | os.PathLike[str], accept: Iterable[str] = (), mmproj: str | os.PathLike[str] | None = None
) -> Checkpoint:
    """The checkpoint in the directory or GGUF file `path`, checked against its weights table; no weight is read yet.

    `accept` lists config keys and patterns of tensor names ("model.extra.*") to tolerate although Ingot does not know
    them. `mmproj` is the file with the vision tower of a GGUF model; None takes the only mmproj*.gguf beside it. Raises
    ValueError (FileNotFoundError when there is no such directory), naming the file and the tensor, for everything that
    is missing, unknown, mis-shaped, mis-typed or truncated. docs/checkpoints.md has the list.
    """
    accept = tuple(accept)

    def accepts(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in accept)

    gguf = gguf_of(Path(path).expanduser())
    if gguf is not None:
        model = open_gguf(gguf, None if mmproj is None else Path(mmproj).expanduser(), accept)
        return _checked(model.path, model.config, model.files, model.stored, accepts, "its metadata", model.embedded)
    if mmproj is not None:
        raise ValueError(f"mmproj is {str(mmproj)!r}; only a GGUF model has its vision tower in a file of its own")
    directory = _directory(path)
    refuse_foreign_files(directory)
    if not (directory / "config.json").is_file():
        lost = (directory / "config.json").is_symlink()
        hint = "\nhint: its link leads nowhere: copy what links mean (`cp -rL`)" if lost else ""
        raise ValueError(f"{directory}: holds no config.json, which tells the sizes of the model{hint}")
    files = open_shards(directory, accepts)
    infos = {name: file.info(name) for name, file in files.items()}
    refuse_foreign_tensors(files, {name: info for name, info in infos.items() if not accepts(name)})
    config = read_config(directory / "config.json", accept)
    held: Mapping[str, WeightFile] = files
    if is_mlx(infos):
        held, stored = open_mlx(files, config, weights_table(config))
    else:
        stored = stored_names(weights_table(config), config.prefix, infos)
    checkpoint = _checked(directory, config, held, stored, lambda name: name == HEAD or accepts(name), "config.json")
    check_tied_head(files, infos, checkpoint.table, stored[f"{config.prefix}embed_tokens.weight"])
    return checkpoint


def glance(path: str | os.PathLike[str]) -> tuple[Config, int] | None:
    """The configuration at `path` and the bytes of its weights' files, without opening a directory's; None where there
    is no configuration."""
    place = Path(path)
    if gguf_of(place) is not None:
        checkpoint = open_checkpoint(place)
        return checkpoint.config, checkpoint.stored_bytes()
    if not (place / "config.json").is_file():
        return None
    return read_config(place / "config.json"), sum(f.stat().st_size for f in place.glob("*.safetensors"))


def _checked(
    path: Path,
    config: Config,
    files: Mapping[str, WeightFile],
    stored: dict[str, str],
    accepts: Callable[[str], bool],
    described_by: str,
    embedded: Embedded | None = None,
) -> Checkpoint:
    """The checkpoint of a configuration and the tensors in open files, held against one another."""
    infos = {name: file.info(name) for name, file in files.items()}
    paths = {file.path for file in files.values()}
    table = present_rows(paths.pop() if len(paths) == 1 else path, weights_table(config), stored, infos)
    stored = {name: stored[name] for name in table}
    check_weights(files, infos, table, stored, accepts, described_by)
    has = {weight.component for weight in table.values()}
    dtype = majority_dtype(infos[name] for name in stored.values())
    return Checkpoint(path, config, table, "mtp" in has, "vision" in has, dtype, files, stored, embedded)


def _directory(path: str | os.PathLike[str]) -> Path:
    directory = Path(path).expanduser()
    if not directory.exists():
        raise FileNotFoundError(f"{directory}: there is no such directory")
    if not directory.is_dir():
        raise ValueError(
            f"{directory}: is a file; a checkpoint is a directory with config.json and *.safetensors, or a GGUF file"
        )
    return directory
