"""The readers that are fuzzed, and what each promises."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ingot.pixels.image import decoded
from ingot.pixels.limits import IMAGE_PIXELS
from ingot.prompt import StreamDecoder, Tokenizer
from ingot.prompt.compiled import CompiledTokenizer
from ingot.prompt.media import Preprocessor
from ingot.spec import VisionConfig, read_config, weights_table
from ingot.store import SafetensorsFile
from ingot.store.shards import read_index
from tools.fuzz.parser_target import run_parser
from tools.fuzz.png import join_chunks, split_chunks
from tools.fuzz.records_target import join_records, run_records, split_records
from tools.fuzz.target import Target, sections
from tools.fuzz.template_target import run_template

_TEXT_LIMIT = 2_000  # characters given to a tokenizer


@cache
def _directory() -> Path:
    """A folder for the files of an input, in memory where there is such a place."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="ingot-fuzz-", dir=memory if memory.is_dir() else None))


def _file(name: str, data: bytes) -> Path:
    path = _directory() / name
    path.write_bytes(data)
    return path


def run_safetensors(data: bytes) -> None:
    """Every tensor lies inside the file, has its size, and can be read."""
    file = SafetensorsFile(_file("model.safetensors", data))
    at = None
    for name in file.names:
        info, tensor = file.info(name), file.tensor(name)
        assert 8 < info.begin <= info.end <= len(data), f"{name!r} lies outside the file"
        assert at in (None, info.begin), f"{name!r} does not follow the one before it"
        assert tensor.array.tobytes() == data[info.begin : info.end]
        tensor.first_not_finite()
        file.release(name)
        at = info.end
    assert at in (None, len(data))


def split_safetensors(data: bytes) -> list[bytes]:
    length = int.from_bytes(data[:8], "little")
    return [data[8 : 8 + length], data[8 + length :]] if 0 < length < len(data) else [data]


def join_safetensors(parts: Sequence[bytes]) -> bytes:
    return len(parts[0]).to_bytes(8, "little") + parts[0] + parts[1] if len(parts) == 2 else b"".join(parts)


def run_config(data: bytes) -> None:
    """Every JSON file of a checkpoint: what is accepted has a table of weights, shards beside it, sane budgets."""
    given = sections(data)
    if "config.json" in given:
        rows = weights_table(read_config(_file("config.json", given["config.json"])))
        assert len(rows) < 200_000
        assert all(row.size > 0 for row in rows.values())
    if "model.safetensors.index.json" in given:
        path = _file("model.safetensors.index.json", given["model.safetensors.index.json"])
        for shard in read_index(path).values():
            assert (path.parent / shard).parent == path.parent, f"{shard!r} leaves the directory"
    if "preprocessor_config.json" in given:
        _file("preprocessor_config.json", given["preprocessor_config.json"])
        preprocessor = Preprocessor.from_directory(_directory(), VisionConfig())
        picture = preprocessor.image(np.zeros((40, 60, 3), np.uint8))
        assert np.isfinite(picture.patches(0)).all()


def run_tokenizer(data: bytes) -> None:
    """What loads encodes without loss, decodes a stream as the whole, and compiles to the same ids."""
    given = sections(data)
    directory = _directory() / "tokenizer"
    directory.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        (directory / name).unlink(missing_ok=True)
        if name in given:
            (directory / name).write_bytes(given[name])
    tokenizer = Tokenizer.from_directory(directory)
    text = given.get("text", b"").decode("utf-8", "replace")[:_TEXT_LIMIT]
    _check_text(tokenizer, text)
    tables = tokenizer.tables()
    if tables is not None:
        compiled = Tokenizer(CompiledTokenizer(tables))
        for special in (True, False):
            assert compiled.encode(text, special) == tokenizer.encode(text, special), "the compiled one differs"


def _check_text(tokenizer: Tokenizer, text: str) -> None:
    from unicodedata import normalize

    for special in (True, False):
        ids = tokenizer.encode(text, special)
        assert all(0 <= index < tokenizer.vocab_size for index in ids)
        whole, stream = tokenizer.decode(ids), StreamDecoder(tokenizer, skip_special=False)
        assert "".join([stream.push(index) for index in ids]) + stream.finish() == whole
        assert normalize("NFC", whole) == normalize("NFC", text), f"{text!r:.80} comes back as {whole!r:.80}"


def run_image(data: bytes) -> None:
    """RGB pixels within the limit."""
    pixels = np.asarray(decoded(data, "the image"))  # as in the child, but here: a crash is seen
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= IMAGE_PIXELS


def run_gguf(data: bytes) -> None:
    """Every tensor of a GGUF file can be read."""
    reader: Any = import_module("ingot.store.gguf")
    file = reader.GGUFFile(_file("model.gguf", data), None)
    for name in file.names:
        info = file.info(name)
        assert 0 < info.begin <= info.end <= len(data), f"{name!r} lies outside the file"
        file.values(name)


_ALL = (
    Target("safetensors", run_safetensors, split_safetensors, join_safetensors),
    Target("config", run_config),
    Target("tokenizer", run_tokenizer, seconds=10),
    Target("template", run_template, seconds=20),
    Target("image", run_image, split_chunks, join_chunks, seconds=20, memory=3 << 30),
    Target("records", lambda data: run_records(data, _directory() / "a.records"), split_records, join_records),
    Target("parser", run_parser, length=1500, refuses=False),
)
TARGETS = {target.name: target for target in _ALL}
if find_spec("ingot.store.gguf"):
    TARGETS["gguf"] = Target("gguf", run_gguf)


def skipped() -> dict[str, str]:
    """Targets that cannot run here, with the reason."""
    return {} if "gguf" in TARGETS else {"gguf": "there is no ingot.store.gguf yet"}
