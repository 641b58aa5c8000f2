"""A table of safetensors files that lie, each with the sentence it must be answered with."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ingot.store import SafetensorsFile
from tests.store.store_files import entry, raw_file

DATA = bytes(24)
TWO = {"a": entry(), "b": entry("BF16", (5,), (24, 34))}


def one(**changes: Any) -> bytes:
    """A file with the single tensor `t`, some of whose header entry is changed."""
    return raw_file({"t": entry() | changes}, DATA)


def header_of(text: str) -> bytes:
    return raw_file(text.encode(), DATA)


@dataclass
class Bad:
    name: str
    content: bytes
    sentence: str


T = '"t":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'
NAMED = "tensor 't' "
BAD = [
    # not a safetensors file at all
    Bad("empty", b"", "is empty"),
    Bad("one byte", b"\x10", "is truncated: it has 1 bytes and the header length alone takes 8"),
    Bad("seven bytes", bytes(7), "is truncated: it has 7 bytes"),
    Bad("lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    Bad("gguf", b"GGUF\x03\0\0\0" + DATA, "is a GGUF file, not safetensors"),
    Bad("zip pickle", b"PK\x03\x04" + DATA, "is a PyTorch pickle"),
    Bad("pickle", b"\x80\x02\x8a\x0a" + DATA, "is a PyTorch pickle"),
    Bad("web page", b"<!DOCTYPE html><html>", "is a web page"),
    Bad("small web page", b"<html>" + DATA, "is a web page"),
    Bad("zeros", bytes(64), "the header does not begin with '{'"),
    Bad("noise", bytes(range(65, 129)), "claims a header of"),
    # the header's length
    Bad(
        "header longer than the file",
        raw_file({"t": entry()}, DATA, length=5000),
        "is truncated inside its header: 5000",
    ),
    Bad("header of 2^64-1", raw_file({"t": entry()}, DATA, length=2**64 - 1), "over the limit of 10000000;"),
    Bad("header one over the limit", raw_file({"t": entry()}, DATA, length=10_000_001), "over the limit of 10000000;"),
    Bad("header length zero", raw_file(b"", DATA), "the header does not begin with '{'"),
    Bad("header cut short", raw_file({"t": entry()}, DATA, length=20), "the header is not valid JSON"),
    Bad("header runs into the data", raw_file({"t": entry()}, DATA, length=80), "the header is not valid JSON"),
    # its JSON
    Bad("leading space", header_of(" {" + T + "}"), "the header does not begin with '{'"),
    Bad("list", header_of("[]"), "the header does not begin with '{'"),
    Bad("open object", header_of("{" + T), "the header is not valid JSON"),
    Bad("two objects", header_of("{}{}"), "the header is not valid JSON"),
    Bad("not utf-8", raw_file(b'{"\xff":1}', DATA), "the header is not valid JSON"),
    Bad("very deep", header_of('{"a":' + "[" * 200_000), "the header is not valid JSON"),
    Bad("very long number", header_of('{"t":' + "9" * 10_000 + "}"), "the header is not valid JSON"),
    Bad("tensor twice", header_of("{" + T + "," + T + "}"), "the header has the key 't' twice"),
    Bad("dtype twice", header_of('{"t":{"dtype":"F32","dtype":"F32"}}'), "the header has the key 'dtype' twice"),
    Bad("metadata list", raw_file({"__metadata__": []}), "__metadata__ must map strings to strings"),
    Bad("metadata number", raw_file({"__metadata__": {"format": 1}}), "__metadata__ must map strings to strings"),
    # one entry
    Bad("entry is a number", raw_file({"t": 5}), NAMED + "must have dtype, shape and data_offsets, and has 5"),
    Bad("entry is empty", raw_file({"t": {}}), NAMED + "must have dtype, shape and data_offsets, and has []"),
    Bad("no offsets", raw_file({"t": {"dtype": "F32", "shape": []}}), "and has ['dtype', 'shape']"),
    Bad("one key more", one(stride=[3, 1]), "and has ['data_offsets', 'dtype', 'shape', 'stride']"),
    Bad("unknown dtype", one(dtype="F31"), NAMED + "has dtype 'F31', which is not one of BOOL, U8"),
    Bad("lower-case dtype", one(dtype="f32"), NAMED + "has dtype 'f32'"),
    Bad("dtype is a list", one(dtype=["F32"]), NAMED + "has dtype"),
    Bad("sub-byte dtype", one(dtype="F4"), NAMED + "has dtype 'F4'"),
    Bad("negative shape", one(shape=[-2, -3]), NAMED + "has shape [-2, -3], which is not a list of non-negative"),
    Bad("fractional shape", one(shape=[2.0, 3]), NAMED + "has shape [2.0, 3], which is not"),
    Bad("shape of booleans", one(shape=[True, 6]), NAMED + "has shape [True, 6], which is not"),
    Bad("shape is a number", one(shape=6), NAMED + "has shape 6, which is not"),
    Bad("shape is null", one(shape=None), NAMED + "has shape None, which is not"),
    Bad("shape of text", one(shape=["2", "3"]), NAMED + "has shape ['2', '3'], which is not"),
    Bad(
        "shape overflows",
        one(shape=[2**40, 2**40]),
        NAMED + "has shape [1099511627776, 1099511627776], which is larger",
    ),
    Bad("shape overflows to nothing", one(shape=[2**63, 2, 0], data_offsets=[0, 0]), "which is larger than any file"),
    Bad("33 dimensions", one(shape=[1] * 33, data_offsets=[0, 4]), NAMED + "has 33 dimensions; at most 32 are allowed"),
    Bad("one offset", one(data_offsets=[0]), NAMED + "has data_offsets [0], not [begin, end]"),
    Bad("three offsets", one(data_offsets=[0, 12, 24]), NAMED + "has data_offsets [0, 12, 24], not"),
    Bad("offsets backwards", one(data_offsets=[24, 0]), NAMED + "has data_offsets [24, 0], not"),
    Bad("negative offset", one(data_offsets=[-24, 0]), NAMED + "has data_offsets [-24, 0], not"),
    Bad("fractional offset", one(data_offsets=[0, 24.0]), NAMED + "has data_offsets [0, 24.0], not"),
    Bad("huge offset", one(data_offsets=[2**63, 2**63 + 24]), NAMED + "has data_offsets [9223372036854775808,"),
    Bad("offsets of text", one(data_offsets="024"), NAMED + "has data_offsets '024', not"),
    Bad("shape too large for offsets", one(shape=[2, 4]), "tensor 't': shape [2, 4] of F32 takes 32 bytes, but"),
    Bad("shape too small for offsets", one(shape=[2]), "takes 8 bytes, but data_offsets give it 24"),
    Bad(
        "dtype too narrow for offsets",
        one(dtype="BF16"),
        "shape [2, 3] of BF16 takes 12 bytes, but data_offsets give it 24",
    ),
    # the entries together
    Bad("gap before the first", raw_file({"t": entry(offsets=(8, 32))}, bytes(32)), NAMED + "begins 8 bytes behind"),
    Bad(
        "gap between",
        raw_file({"a": entry(), "t": entry(offsets=(28, 52))}, bytes(52)),
        NAMED + "begins 4 bytes behind",
    ),
    Bad(
        "overlap", raw_file({"a": entry(), "t": entry(offsets=(20, 44))}, bytes(44)), NAMED + "overlaps tensor 'a' by 4"
    ),
    Bad("the same bytes twice", raw_file({"a": entry(), "t": entry()}, DATA), NAMED + "overlaps tensor 'a' by 24"),
    Bad(
        "data cut by one byte",
        raw_file({"t": entry()}, DATA[:-1]),
        NAMED + "ends 1 bytes behind the end of the file: it is t",
    ),
    Bad("no data", raw_file({"t": entry()}), NAMED + "ends 24 bytes behind the end of the file: it is truncated"),
    Bad(
        "one byte more", raw_file({"t": entry()}, bytes(25)), "has 1 bytes that belong to no tensor behind its last one"
    ),
    Bad("data without tensors", raw_file({}, DATA), "has 24 bytes that belong to no tensor"),
]


def message(path: Any) -> str:
    with pytest.raises(ValueError) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value), "the file is not named"
    assert len(str(caught.value)) < len(str(path)) + 250, "one sentence and perhaps a hint"
    return str(caught.value)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, bad):
    (tmp_path / "model.safetensors").write_bytes(bad.content)
    assert bad.sentence in message(tmp_path / "model.safetensors")


def test_the_rows_of_the_table_are_bad_because_of_what_they_change(tmp_path):
    (tmp_path / "f").write_bytes(one())
    assert SafetensorsFile(tmp_path / "f").names == ("t",)


def test_every_truncation_is_refused(tmp_path):
    whole = raw_file(TWO, bytes(34))
    for length in range(len(whole)):
        (tmp_path / "f").write_bytes(whole[:length])
        said = message(tmp_path / "f")
        assert "truncated" in said or "is empty" in said, length
    (tmp_path / "f").write_bytes(whole)
    assert set(SafetensorsFile(tmp_path / "f").names) == {"a", "b"}


@pytest.mark.parametrize(("cut", "name"), [(34, "a"), (11, "a"), (10, "b"), (1, "b")])
def test_a_truncation_names_the_first_tensor_that_is_not_whole(tmp_path, cut, name):
    (tmp_path / "f").write_bytes(raw_file(TWO, bytes(34 - cut)))
    assert f"tensor {name!r} ends" in message(tmp_path / "f")


def test_a_file_of_no_tensors_is_a_file(tmp_path):
    (tmp_path / "f").write_bytes(raw_file({}))
    assert SafetensorsFile(tmp_path / "f").names == ()


def test_a_missing_file_and_a_link_to_nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no such file$"):
        SafetensorsFile(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"there is no such file \(a link to nowhere\)"):
        SafetensorsFile(tmp_path / "link")


def test_what_is_not_a_regular_file(tmp_path):
    assert "is a directory, not a safetensors file" in message(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "is not a regular file" in message(tmp_path / "pipe")


def test_what_may_not_be_read(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be opened: Too many levels of symbolic links" in message(tmp_path / "loop")


def test_a_header_within_the_limit_may_be_large(tmp_path):
    names = {f"layers.{i}.weight": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(20_000)}
    (tmp_path / "f").write_bytes(raw_file(json.dumps(names).encode(), np.arange(20_000).astype(np.uint8).tobytes()))
    file = SafetensorsFile(tmp_path / "f")
    assert file.tensor("layers.300.weight").array.tolist() == [300 % 256]
