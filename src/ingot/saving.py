"""`save`: a loaded model as a Hugging Face checkpoint directory, complete or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ingot.language_model import LanguageModel
from ingot.store import Checkpoint, SafetensorsWriter, Tensor, tensor_of
from ingot.store.checkpoint import COMPANIONS
from ingot.store.shards import INDEX, SINGLE
from ingot.store.tensor import byte_length

SHARD_BYTES = 5 * 10**9  # what transformers long wrote, and every host of files takes
_AT_ONCE = 1 << 22  # elements converted in one piece
_DTYPES = {"bf16": "BF16", "f32": "F32"}
_CONFIG_DTYPES = {"bf16": "bfloat16", "f32": "float32"}
Layout = dict[str, tuple[str, tuple[int, ...]]]  # stored name -> dtype, shape


def save(
    model: LanguageModel,
    directory: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `model` as a Hugging Face checkpoint into `directory`, and return it: load, save, load is the identity.

    The names are those of the checkpoint that was loaded, its configuration, tokenizer, template and preprocessor files
    are copied byte for byte. With backend="torch" the weights are written as they are now; what is not in the
    tree (MTP, a vision tower that has seen nothing) comes from the checkpoint that was loaded, and so does everything
    with the other backends, whose weights do not change.

    dtype      None: each tensor's stored one; ValueError where that would round a changed weight. "bf16" rounds, but
               for the weights that official checkpoints keep in float32; "f32" makes all float32.
    overwrite  replace the checkpoint in `directory`; refused where other files are beside it.
    shard_bytes  above this the weights are cut into shards with an index.
    progress   called with (bytes written, bytes in all).

    The directory appears when it is whole; an error, a full disk or Ctrl-C leaves what was there. Raises ValueError for
    weights that were rounded when they were loaded (q8, q4, or bf16 of a float32 checkpoint), FileExistsError, OSError.
    """
    target, source = Path(directory).expanduser().absolute(), _source(model)
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; 'bf16', 'f32' or None, as stored, is allowed")
    if isinstance(shard_bytes, bool) or not isinstance(shard_bytes, int) or shard_bytes < 1:
        raise ValueError(f"shard_bytes is {shard_bytes!r}; it must be a positive number")
    current = _current(model)
    if not current:
        _check_unrounded(model, source)
    _check_target(target, overwrite)
    layout = _layout(source, dtype)
    _check_room(target, layout)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        _copy_companions(source.path, partial, dtype)
        _write(source, layout, current, partial, shard_bytes, dtype is not None, progress)
        _put(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _source(model: LanguageModel) -> Checkpoint:
    if not isinstance(model.checkpoint, Checkpoint):
        raise ValueError(
            "model was not loaded from a Hugging Face checkpoint, so there is nothing to copy the rest from"
        )
    if model.checkpoint.embedded:
        raise ValueError(f"{model.path} is a GGUF file; only what was loaded from a Hugging Face checkpoint is saved")
    return model.checkpoint


def _current(model: LanguageModel) -> dict[str, Any]:
    """The torch parameters in memory by their names; empty for the other backends."""
    root = model.engine.root
    if not hasattr(root, "named_parameters"):
        return {}
    found = dict(root.named_parameters())
    if (tower := model.engine.eyes.tower) is not None:
        found |= {f"model.visual.{name}": parameter for name, parameter in tower.named_parameters()}
    unknown = sorted(set(found) - set(model.checkpoint.table))
    if unknown:
        raise ValueError(
            f"model has the parameter {unknown[0]!r}, which is not part of its checkpoint\n"
            "hint: merge adapters into their matrices first"
        )
    return found


def _check_unrounded(model: LanguageModel, source: Checkpoint) -> None:
    """What was rounded in loading is no longer the model that its files are."""
    if model.weights in ("q8", "q4"):
        raise ValueError(f"model holds its weights as {model.weights}, whose rounding cannot be undone; {_LOAD_AGAIN}")
    matrices = [name for name, row in source.table.items() if row.role in ("matrix", "embedding")]
    if model.weights == "bf16" and any(source.info(name).dtype != "BF16" for name in matrices):
        raise ValueError(f"model holds its weights as bf16, rounded from {source.dtype}; {_LOAD_AGAIN}")


_LOAD_AGAIN = "there is no such checkpoint to save\nhint: load it without weights=, as it is stored"


def _check_target(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target}: is a file; save makes a directory")
    there = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if there and not overwrite:
        raise FileExistsError(f"{target}: is there already, with {there[0]} in it\nhint: overwrite=True replaces it")
    others = [name for name in there if name not in (*COMPANIONS, INDEX) and not name.endswith(".safetensors")]
    if others:
        raise FileExistsError(f"{target}: holds {others[0]}, which is no part of a checkpoint and would be lost")


def _layout(source: Checkpoint, dtype: str | None) -> Layout:
    layout: Layout = {}
    for stored, name in source.stored.items():
        info = source.stored_info(stored)
        role = source.table[name].dtype if name else ""
        wanted = info.dtype if dtype is None or not name else "F32" if role == "fp32" else _DTYPES[dtype]
        layout[stored] = wanted, info.shape
    return layout


def _check_room(target: Path, layout: Layout) -> None:
    place = target
    while not place.exists():
        place = place.parent
    needed, free = sum(byte_length(*entry) for entry in layout.values()), shutil.disk_usage(place).free
    if needed > free:
        raise OSError(f"{target}: {needed / 1e9:.2f} GB are to be written, and the disk has {free / 1e9:.2f} GB left")


def _copy_companions(source: Path, target: Path, dtype: str | None) -> None:
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if dtype is not None:
        path = target / "config.json"
        config = _with_dtype(json.loads(path.read_text(encoding="utf-8")), _CONFIG_DTYPES[dtype])
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration with its dtypes changed: others load the weights in what it says."""
    sections = {key: _with_dtype(value, dtype) for key, value in config.items() if key.endswith("_config")}
    return config | sections | {key: dtype for key in ("dtype", "torch_dtype") if key in config}


def _write(
    source: Checkpoint,
    layout: Layout,
    current: dict[str, Any],
    directory: Path,
    shard_bytes: int,
    may_round: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    shards = _shards(layout, shard_bytes)
    total, done = sum(byte_length(*entry) for entry in layout.values()), 0
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with SafetensorsWriter(directory / file, {name: layout[name] for name in names}, {"format": "pt"}) as writer:
            for stored in names:
                tensor = _tensor(source, stored, layout[stored][0], current, may_round)
                writer.write(stored, tensor)
                source.release_stored(stored)
                weight_map[stored], done = file, done + tensor.nbytes
                if progress is not None:
                    progress(done, total)
    if len(shards) > 1:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}, indent=2)
        (directory / INDEX).write_text(text + "\n", encoding="utf-8")


def _shards(layout: Layout, shard_bytes: int) -> list[list[str]]:
    """The names in order, cut so that each shard has `shard_bytes` at most, or a single tensor."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, entry in layout.items():
        size = byte_length(*entry)
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _tensor(source: Checkpoint, stored: str, dtype: str, current: dict[str, Any], may_round: bool) -> Tensor:
    parameter = current.get(source.stored[stored])
    tensor = source.read_stored(stored) if parameter is None else _of_torch(parameter)
    assert isinstance(tensor, Tensor)  # quantised ones are of GGUF files
    bad = tensor.first_not_finite()
    if bad is not None:
        raise ValueError(f"tensor {stored!r} holds a NaN or an infinity; weights must be finite")
    shape = source.stored_info(stored).shape
    if tensor.array.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"tensor {stored!r} has shape {list(tensor.shape)}; its checkpoint has {list(shape)}")
    tensor = Tensor(tensor.array.reshape(shape), tensor.dtype)
    return tensor if tensor.dtype == dtype else _converted(stored, tensor, dtype, may_round)


def _of_torch(parameter: Any) -> Tensor:
    import torch

    values = parameter.detach().to("cpu").contiguous()
    if values.dtype == torch.bfloat16:
        return Tensor(values.view(torch.int16).numpy().view(np.uint16), "BF16")
    return Tensor(values.float().numpy(), "F32")


def _converted(stored: str, tensor: Tensor, dtype: str, may_round: bool) -> Tensor:
    """The tensor in another dtype, piece by piece: a large one is not held as float32."""
    flat = tensor.array.reshape(-1)
    out = np.empty(flat.size, {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[dtype])
    for begin in range(0, flat.size, _AT_ONCE):
        values = Tensor(flat[begin : begin + _AT_ONCE], tensor.dtype).float32()
        piece = tensor_of(values, dtype)
        if not may_round and not np.array_equal(piece.float32(), values):
            raise ValueError(
                f"tensor {stored!r} has changed and is stored as {dtype}, which would round it\n"
                "hint: dtype='f32' keeps its values, dtype='bf16' rounds all of them"
            )
        out[begin : begin + _AT_ONCE] = piece.array
    return Tensor(out.reshape(tensor.shape), dtype)


def _put(partial: Path, target: Path) -> None:
    """The whole directory under its name at once; what was there before goes after."""
    _sync(partial)
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    replaced = target.exists()
    if replaced:
        target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        if replaced:
            old.rename(target)
        raise
    _sync(target.parent)
    if replaced:
        shutil.rmtree(old, ignore_errors=True)


def _sync(directory: Path) -> None:
    for path in _files_and(directory) if os.name == "posix" else ():
        with suppress(OSError):  # some file systems cannot
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _files_and(directory: Path) -> Iterator[Path]:
    yield from (path for path in directory.iterdir() if path.name in COMPANIONS or path.name == INDEX)
    yield directory
