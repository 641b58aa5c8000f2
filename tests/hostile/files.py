"""What stands in the place of a checkpoint's files: other kinds of files, other sizes, other names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ingot.prompt import ChatTemplate, Tokenizer
from ingot.prompt.media import Preprocessor, open_image
from ingot.spec import VisionConfig, read_config
from ingot.store import SafetensorsFile, open_checkpoint, resolve
from tests.hostile.row import Row
from tests.store.store_files import config, entry, make_checkpoint, raw_file, write_index

Read = Callable[[Path], Any]


READERS: dict[str, Read] = {
    "model.safetensors": lambda place: SafetensorsFile(place / "model.safetensors"),
    "config.json": lambda place: read_config(place / "config.json"),
    "tokenizer.json": Tokenizer.from_directory,
    "vocab.json": Tokenizer.from_directory,
    "tokenizer_config.json": ChatTemplate.from_directory,
    "chat_template.jinja": ChatTemplate.from_directory,
    "preprocessor_config.json": lambda place: Preprocessor.from_directory(place, VisionConfig()),
    "photo.png": lambda place: open_image(place / "photo.png"),
}
# root may read everything, so that a file without permissions is no row: test_hostile.py tries it for others
STANDINS: dict[str, Callable[[Path], Any]] = {
    "a pipe that nobody writes to": os.mkfifo,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a directory": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path),
    "a terabyte of nothing": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}


def stand_ins() -> Iterator[Row]:
    for name, read in READERS.items():
        for what, make in STANDINS.items():
            yield Row("Files in another's place", f"{name} is {what}", _attempt(name, make, read))


def _attempt(name: str, make: Callable[[Path], Any], read: Read) -> Read:
    def attempt(place: Path) -> Any:
        make(place / name)
        return read(place)

    return attempt


def weights(content: bytes, then: Callable[[Path], Any] = lambda path: None) -> Read:
    """Reads a safetensors file of that content, changed by `then`."""

    def attempt(place: Path) -> Any:
        (place / "model.safetensors").write_bytes(content)
        then(place / "model.safetensors")
        return SafetensorsFile(place / "model.safetensors")

    return attempt


def indexed(weight_map: Any) -> Read:
    def attempt(place: Path) -> Any:
        make_checkpoint(place)
        (place / "model.safetensors").unlink()
        write_index(place, weight_map)
        return open_checkpoint(place)

    return attempt


def configured(text: str | bytes) -> Read:
    def attempt(place: Path) -> Any:
        (place / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config(place / "config.json")

    return attempt


def changed(section: str = "", **values: Any) -> Read:
    """A config.json of the smallest legal size with some values changed."""
    raw = config()
    (raw[section] if section else raw).update(values)
    return configured(json.dumps(raw))


def replaced(old: str, new: str) -> Read:
    text = json.dumps(config())
    assert old in text
    return configured(text.replace(old, new, 1))


SIZE = '"hidden_size": 40'
WEIGHTS: dict[str, Read] = {
    "two terabytes claimed, one there": weights(
        raw_file({"t": entry("U8", (2 << 40,), (0, 2 << 40))}), lambda path: os.truncate(path, 1 << 40)
    ),
    "more than the process may map": weights(
        (HEADER := raw_file({"t": entry("U8", (1 << 40,), (0, 1 << 40))})),
        lambda path: os.truncate(path, len(HEADER) + (1 << 40)),
    ),
    "a header of eleven million bytes": weights((11_000_000).to_bytes(8, "little") + b"{" + b" " * 11_000_000),
    "a header of a million empty lists": weights(raw_file(b'{"t": [' + b"[]," * 1_000_000 + b"[]]}")),
    "a tensor's name of 300 characters": weights(raw_file({"t" * 300: entry()}, bytes(24))),
    "a tensor's name with line breaks": weights(raw_file({"a\n\x1b[2J": entry("F31")}, bytes(24))),
    "a dtype of ten thousand characters": weights(raw_file({"t": entry("F" * 10_000)}, bytes(24))),
    "a shape nested 900 deep": weights(raw_file(b'{"t": ' + b"[" * 900 + b"]" * 900 + b"}")),
    "NaN as an offset": weights(raw_file(b'{"t": {"dtype": "U8", "shape": [1], "data_offsets": [NaN, 1]}}', b"a")),
    "an offset of 5000 digits": weights(
        raw_file(b'{"t": {"dtype": "U8", "shape": [1], "data_offsets": [0, ' + b"9" * 5000 + b"]}}", b"a")
    ),
    "a byte order mark before the header": weights(raw_file(b"\xef\xbb\xbf{}")),
}
INDEXES: dict[str, Read] = {
    "the index leaves the directory": indexed({"a": "../../../etc/passwd.safetensors"}),
    "the index names a file of 300 characters": indexed({"a": "s" * 300 + ".safetensors"}),
    "the index names a file with a line break": indexed({"a": "a\nb.safetensors"}),
    "the index names a file with a null byte": indexed({"a": "a\0.safetensors"}),
    "the index names a tensor of 300 characters": indexed({"a" * 300: "a.safetensors"}),
    "the index maps to nothing": indexed({"a": None}),
    "the index names two shards that differ by case": indexed({"a": "Model.safetensors", "b": "model.safetensors"}),
}
CONFIGS: dict[str, Read] = {
    "a key twice": replaced(SIZE, f"{SIZE}, {SIZE}"),
    "NaN": replaced(SIZE, '"hidden_size": NaN'),
    "Infinity": replaced('"rope_theta": 10000.0', '"rope_theta": Infinity'),
    "1e999, which Python reads as infinity": replaced('"rope_theta": 10000.0', '"rope_theta": 1e999'),
    "an integer of 400 digits for a real number": replaced('"rope_theta": 10000.0', f'"rope_theta": {10**400}'),
    "an integer of 5000 digits": replaced(SIZE, f'"hidden_size": {"9" * 5000}'),
    "an integer of 4000 digits": replaced(SIZE, f'"hidden_size": {"9" * 4000}'),
    "a byte order mark": configured(b"\xef\xbb\xbf" + json.dumps(config()).encode()),
    "UTF-16": configured(json.dumps(config()).encode("utf-16")),
    "a value nested 900 deep": replaced(SIZE, '"hidden_size": ' + "[" * 900 + "]" * 900),
    "a value nested 100,000 deep": replaced(SIZE, '"hidden_size": ' + "[" * 100_000 + "]" * 100_000),
    "two megabytes": configured(" " * 2_000_000 + "{}"),
    "a value of 100,000 characters": changed(model_type="q" * 100_000),
    "a key of 100,000 characters": changed(**{"k" * 100_000: 1}),
    "a key with line breaks and escapes": changed(**{"a\nhint: rm\x1b[2J": 1}),
    "two billion layers": changed("text_config", num_hidden_layers=2_000_000_000, layer_types=None),
    "a million layers, listed": changed(
        "text_config", num_hidden_layers=50_000, layer_types=["full_attention"] * 50_000
    ),
    "two billion blocks in the tower": changed("vision_config", depth=2_000_000_000),
    "two billion heads": changed("text_config", num_attention_heads=2_000_000_000),
    "heads of no size": changed("text_config", head_dim=0),
    "a negative size": changed("text_config", vocab_size=-5),
    "patches of a million pixels": changed("vision_config", patch_size=1_000_000),
    "blocks of a million patches": changed("vision_config", spatial_merge_size=1000),
    "pictures of five channels": changed("vision_config", in_channels=5),
    "positions that are no square": changed("vision_config", num_position_embeddings=37),
    "heads that do not divide the tower": changed("vision_config", num_heads=5),
    "a token's id below zero": changed(image_token_id=-1),
    "a token's id beyond all": changed(video_token_id=2**40),
    "true for a number": changed("text_config", hidden_size=True),
    "experts": changed("text_config", num_experts=8),
    "another rotary embedding": changed("text_config", rope_parameters={"rope_type": "llama9"}),
}


def _hub_name(name: str) -> Read:
    return lambda place: resolve(name)


NAMES: dict[str, Read] = {
    "nothing": _hub_name(""),
    "a path of 5000 characters": _hub_name("a" * 5000),
    "a path with a null byte": _hub_name("a\0b"),
}


def rows() -> Iterator[Row]:
    yield from stand_ins()
    for section, table in (
        ("Weight files", WEIGHTS),
        ("The index of shards", INDEXES),
        ("config.json", CONFIGS),
        ("The name of a model", NAMES),
    ):
        yield from (Row(section, name, attempt) for name, attempt in table.items())
