"""What a start can be spared: weights that an earlier one packed, and the tokenizer that it compiled, are mapped."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ingot.model import build
from ingot.prompt import Tokenizer
from ingot.prompt.compiled import VERSION, CompiledTokenizer
from ingot.prompt.gguf import has_tokenizer, tokenizer_from_gguf
from ingot.quant import Calibration
from ingot.quant.calibration import CalibratedMatrices
from ingot.spec import Weight
from ingot.store import Checkpoint, QuantisedTensor, Tensor
from ingot.store.cache import cache_directory, cache_file, source_of
from ingot.store.packed import PackedFile, PackedWriter, find

POLICY = 1  # which leaves the graph has and what they are called; a change makes old cache files stale
WORTH_BYTES = 64 << 20  # of stored weights; measured: packing less takes under 0.1 s (docs/why/packed-cache.md)
TOKENIZER_FILES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt", "tokenizer_config.json"),
)  # the first set that is there
WORTH_TOKENIZER_BYTES = 1 << 20  # of its files; measured: the library reads this in 0.1 s
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Weights:
    """The root of the weights' tree, and the cache file that was written for the next start, if one was."""

    root: Any
    written: Path | None = None


def weights_of(
    checkpoint: Checkpoint,
    ops: Any,
    fmt: str,
    cache: bool | Path,
    progress: Progress | None,
    calibration: Calibration | None = None,
    component: str = "text",
) -> Weights:
    """The tree of one component of `checkpoint` with matrices in `fmt`, q4 ones rounded for the prompts of
    `calibration` if given.

    `cache` is a directory, True (the user's, where it is worth it) or False. Where the cache cannot be written the
    weights are packed into memory, with a warning.
    """
    wanted = isinstance(cache, Path) or (cache and (calibration or _size(checkpoint, component) >= WORTH_BYTES))
    if wanted and hasattr(ops, "packed"):
        try:
            directory = cache if isinstance(cache, Path) else cache_directory()
            return _cached(checkpoint, ops, fmt, directory, progress, calibration, component)
        except OSError as error:
            warnings.warn(_about("packed weights", error), stacklevel=3)
    if calibration is None:
        reader = _Reader(checkpoint, progress, component)
        return Weights(build(checkpoint.config, ops, reader, fmt, (component,)))
    packing = _Calibrated(checkpoint, ops, _Reader(checkpoint, progress), calibration)
    return Weights(build(checkpoint.config, packing, _same, fmt))


def _cached(
    checkpoint: Checkpoint,
    ops: Any,
    fmt: str,
    directory: Path,
    progress: Progress | None,
    calibration: Calibration | None,
    component: str,
) -> Weights:
    what = fmt if calibration is None else f"{fmt}-{calibration.digest}"
    what = what if component == "text" else f"{component}-{what}"
    path = cache_file(directory, checkpoint.path, what)
    version = f"{ops.PACK_VERSION}.{POLICY}"
    source = source_of(checkpoint.path, what, version, checkpoint.identity(component))
    file = find(path, source)
    written = None if file else path
    if file is None:
        reader = _Reader(checkpoint, progress, component)
        with PackedWriter(path, source, 2 * len(checkpoint.table)) as writer:
            packer = ops if calibration is None else _Calibrated(checkpoint, ops, reader, calibration)
            packing = _Packing(packer, reader if calibration is None else _same, writer)
            build(checkpoint.config, packing, _same, fmt, (component,))
        file = PackedFile(path)
    file.prefetch()
    return Weights(build(checkpoint.config, _Mapped(ops, file, checkpoint), _same, fmt, (component,)), written)


def _same(weight: Weight) -> Weight:
    return weight


class _Calibrated:
    """What `build` asks of an op set, given the rows of the weights table: q4 is rounded for the calibration's prompts,
    all else as ever."""

    def __init__(self, checkpoint: Checkpoint, ops: Any, read: _Reader, calibration: Calibration) -> None:
        self.Node, self.items = ops.Node, ops.items
        self._ops, self._read = ops, read
        stored = {"BF16": "bf16"}.get(checkpoint.dtype, "f32")
        root = build(checkpoint.config, ops, _Reader(checkpoint, None), stored)
        self._matrices = CalibratedMatrices(ops, root, calibration)

    def matrix(self, weight: Weight, fmt: str) -> Any:
        tensor = self._read(weight)
        if fmt != "q4":
            return self._ops.matrix(tensor, fmt)
        return self._ops.packed(self._matrices.data(weight, tensor.float32), weight.matrix_shape, fmt)

    def embedding(self, weight: Weight, fmt: str, tied: bool) -> Any:
        data = self.matrix(weight, fmt).data if tied else None
        return self._ops.packed_embedding(self._read(weight), data, fmt)

    def vector(self, weight: Weight) -> Any:
        return self._ops.vector(self._read(weight))


class _Packing:
    """What `build` asks of an op set, for weights that go to a file one by one; none stays in memory."""

    def __init__(self, ops: Any, read: Callable[[Weight], Any], writer: PackedWriter) -> None:
        self.Node, self.items = ops.Node, ops.items
        self._ops, self._read, self._writer = ops, read, writer

    def matrix(self, weight: Weight, fmt: str) -> Any:
        self._writer.write(f"{weight.name}.{fmt}", self._ops.matrix(self._read(weight), fmt).data)
        return self.Node()  # where its bias is hung

    def embedding(self, weight: Weight, fmt: str, tied: bool) -> None:
        stored = self._read(weight)  # checks it; its rows are used where they are stored
        if tied:
            self._writer.write(f"{weight.name}.{fmt}", self._ops.matrix(stored, fmt).data)

    def vector(self, weight: Weight) -> None:
        self._writer.write(weight.name, self._ops.vector(self._read(weight)))


class _Mapped:
    """What `build` asks of an op set, for weights that lie in a cache file."""

    def __init__(self, ops: Any, file: PackedFile, checkpoint: Checkpoint) -> None:
        self.Node, self.items = ops.Node, ops.items
        self._ops, self._file, self._checkpoint = ops, file, checkpoint

    def matrix(self, weight: Weight, fmt: str) -> Any:
        return self._ops.packed(self._file.array(f"{weight.name}.{fmt}"), weight.matrix_shape, fmt)

    def embedding(self, weight: Weight, fmt: str, tied: bool) -> Any:
        stored = self._checkpoint.read(weight.name, check_finite=False)  # was checked when the file was written
        return self._ops.packed_embedding(stored, self._file.array(f"{weight.name}.{fmt}") if tied else None, fmt)

    def vector(self, weight: Weight) -> Any:
        return self._file.array(weight.name)


class _Reader:
    """Reads weights one by one, giving each one's pages back once the next is asked for: one copy in memory, not
    two."""

    def __init__(self, checkpoint: Checkpoint, progress: Progress | None, component: str = "text") -> None:
        self._checkpoint, self._progress = checkpoint, progress
        self._done, self._total, self._previous = 0, _size(checkpoint, component), ""

    def __call__(self, weight: Weight) -> Tensor | QuantisedTensor:
        if self._previous:
            self._checkpoint.release(self._previous)
        self._previous = weight.name
        tensor = self._checkpoint.read(weight.name)
        self._done += _stored_bytes(self._checkpoint, weight)
        if self._progress is not None:
            self._progress(self._done, self._total)
        return tensor


def _size(checkpoint: Checkpoint, component: str) -> int:
    """Bytes of a component's weights, as stored."""
    return sum(_stored_bytes(checkpoint, w) for w in checkpoint.table.values() if w.component == component)


def _stored_bytes(checkpoint: Checkpoint, weight: Weight) -> int:
    info = checkpoint.info(weight.name)
    return info.end - info.begin


def tokenizer_of(checkpoint: Checkpoint, cache: bool | Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint, or None where it has none; `cache` as in `weights_of`."""
    found = _embedded_tokenizer(checkpoint) if checkpoint.embedded else _tokenizer_files(checkpoint.path)
    if found is None:
        return None
    if isinstance(cache, Path) or (cache and found.nbytes >= WORTH_TOKENIZER_BYTES):
        try:
            return _cached_tokenizer(checkpoint.path, found, cache if isinstance(cache, Path) else cache_directory())
        except OSError as error:
            warnings.warn(_about("compiled tokenizer", error), stacklevel=3)
    return found.make()


class _TokenizerSource(NamedTuple):
    """What a tokenizer is made of: bytes, what tells these from others, and the making."""

    nbytes: int
    identity: list[tuple[object, ...]]
    make: Callable[[], Tokenizer]


def _tokenizer_files(path: Path) -> _TokenizerSource | None:
    sets = [[path / name for name in names] for names in TOKENIZER_FILES]
    files = next(([file for file in files if file.is_file()] for files in sets if files[0].is_file()), [])
    about = [(file.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for file in files for s in (file.stat(),)]
    size = sum(file.stat().st_size for file in files)
    return _TokenizerSource(size, list(about), lambda: Tokenizer.from_directory(path)) if files else None


def _embedded_tokenizer(checkpoint: Checkpoint) -> _TokenizerSource | None:
    embedded = checkpoint.embedded
    if embedded is None or not has_tokenizer(embedded.tokenizer):
        return None
    return _TokenizerSource(
        embedded.nbytes, [embedded.identity], lambda: tokenizer_from_gguf(embedded.tokenizer, str(checkpoint.path))
    )


def _cached_tokenizer(path: Path, found: _TokenizerSource, directory: Path) -> Tokenizer:
    import tokenizers

    place = cache_file(directory, path, "tokenizer")
    source = source_of(path, "tokenizer", f"{VERSION} {tokenizers.__version__}", found.identity)
    if kept := find(place, source):
        tables = {name: kept.array(name).data for name in CompiledTokenizer.TABLES}
        return Tokenizer(CompiledTokenizer(tables), str(place))
    tokenizer = found.make()
    made = tokenizer.tables()
    if made is not None:
        with PackedWriter(place, source, len(made)) as writer:
            for name, table in made.items():
                writer.write(name, np.frombuffer(table, np.uint8))
    return tokenizer


def _about(what: str, error: OSError) -> str:
    reason = error.strerror or str(error)
    where = f" {error.filename}" if error.filename else ""
    return f"the {what} cannot be kept for the next start: {reason}{where}\nhint: --no-cache does not try"
