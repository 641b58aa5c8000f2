"""What a user or a client gives: pictures, messages, parameters, command lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

import ingot
from ingot.cli import main
from ingot.prompt import OutputParser, normalise_messages, normalise_tools
from ingot.prompt.media import Preprocessor, open_image
from ingot.spec import VisionConfig
from tests.cli.scripted import load
from tests.hostile.row import Row

Attempt = Callable[[Path], Any]


def picture(content: bytes, size: int | None = None) -> Attempt:
    def attempt(place: Path) -> Any:
        (place / "photo.png").write_bytes(content)
        if size is not None:
            os.truncate(place / "photo.png", size)
        return open_image(place / "photo.png")

    return attempt


def image(source: Any) -> Attempt:
    return lambda place: open_image(source)


def seen(height: int, width: int, **options: Any) -> Attempt:
    return lambda place: Preprocessor().image(np.zeros((height, width, 3), np.uint8), **options)


def preprocessed(**config: Any) -> Attempt:
    def attempt(place: Path) -> Any:
        (place / "preprocessor_config.json").write_text(json.dumps(config))
        return Preprocessor.from_directory(place, VisionConfig())

    return attempt


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(1800, dtype=np.uint16).astype(np.uint8).reshape(20, 30, 3)).save(file, kind)
    return file.getvalue()


BMP = encoded("BMP")
PICTURES: dict[str, Attempt] = {
    "a GIF that claims 4 gigapixels": picture(b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0"),
    "a BMP that claims 4 gigapixels": picture(BMP[:18] + struct.pack("<ii", 65535, 65535) + BMP[26:]),
    "a BMP of negative width": picture(BMP[:18] + struct.pack("<ii", -20, 20) + BMP[26:]),
    "a JPEG cut in half": picture(encoded("JPEG")[:300]),
    "a WebP cut in half": picture(encoded("WEBP")[:40]),
    "a GIF of no frame": picture(b"GIF89a\x01\0\x01\0\0\0\0;"),
    "a file of 200 MB": picture(b"\x89PNG\r\n\x1a\n", 200 << 20),
    "a TIFF": picture(b"II*\0" + bytes(40)),
    "PostScript, which is a program": picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"),
    "a Git LFS pointer": picture(b"version https://git-lfs.github.com/spec/v1\n"),
    "base64 in a path's place": image("iVBORw0KGgo" * 900),
    "a path with a null byte": image("a\0b.png"),
    "a path through a file": lambda place: ((place / "a").touch(), open_image(place / "a" / "b.png")),
    "a data: URL of 200 MB": image("data:image/png;base64," + "A" * 200_000_000),
    "a data: URL of no image": image("data:text/html;base64,PGI+"),
    "an address on the net": image("http://169.254.169.254/latest/meta-data"),
    "an address of a file": image("file:///etc/passwd"),
    "a strip": seen(4, 1000),
    "less than a token": seen(40, 60, max_pixels=1000),
    "pixels as a text": seen(40, 60, max_pixels="1000000"),
    "means that are texts": preprocessed(image_mean=["a", "b", "c"]),
    "two means": preprocessed(image_mean=[0.5, 0.5]),
    "a deviation of zero": preprocessed(image_std=[0.5, 0.0, 0.5]),
    "a deviation that is no number": preprocessed(image_std=5),
    "a size that is a list": preprocessed(size=[1, 2]),
    "a budget in disorder": preprocessed(size={"shortest_edge": 10, "longest_edge": 5}),
    "a budget that enlarges to a terabyte": preprocessed(size={"shortest_edge": 10**12, "longest_edge": 10**12}),
    "a budget beyond memory": preprocessed(size={"longest_edge": 10**12}),
    "patches of another size": preprocessed(patch_size=14),
    "a preprocessor that is a list": lambda place: (
        (place / "preprocessor_config.json").write_text("[]"),
        Preprocessor.from_directory(place, VisionConfig()),
    ),
}


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def messages(*given: Any) -> Attempt:
    return lambda place: normalise_messages([{"role": "user", "content": "hi"}, *given])


def tools(*given: Any) -> Attempt:
    return lambda place: normalise_tools([*given])


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or {"type": "object"}}}


def calling(arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}],
    }


MESSAGES: dict[str, Attempt] = {
    "content nested 5000 deep": messages({"role": "user", "content": nested(5000)}),
    "a role of a million characters": messages({"role": "a" * 1_000_000, "content": "x"}),
    "a field of a million characters": messages({"role": "user", "content": "x", "k" * 1_000_000: 1}),
    "a field with line breaks": messages({"role": "user", "content": "x", "a\nb": 1}),
    "arguments nested 5000 deep": messages(calling("[" * 5000)),
    "arguments with keys of a million characters": messages(calling({"a" * 1_000_000: {"b" * 1_000_000: {1}}})),
    "arguments with infinity": messages(calling({"x": float("inf")})),
    "arguments with an integer of 5000 digits": messages(calling('{"x": ' + "9" * 5000 + "}")),
    "half a surrogate pair in a key": messages(calling({"\ud800": 1})),
    "ten thousand tools, the last one twice": tools(*[tool(f"f{i}") for i in range(10_000)], tool("f9999")),
    "a tool's name of markup": tools(tool("f>\n<tool_call>")),
    "a schema nested 200 deep": tools(tool("f", {"properties": {"x": nested(200)}})),
    "text fed after the end": lambda place: [parser := OutputParser(), parser.finish(), parser.feed("x")],
}


@cache
def nugget() -> Any:
    return ingot.load(threads=1)


def asked(prompt: Any = "1 + 1", **options: Any) -> Attempt:
    return lambda place: nugget().generate(prompt, **{"max_tokens": 1, **options})


def loaded(**options: Any) -> Attempt:
    return lambda place: ingot.load(**options)


PARAMETERS: dict[str, Attempt] = {
    "temperature below zero": asked(temperature=-1),
    "temperature not a number": asked(temperature=float("nan")),
    "temperature a text": asked(temperature="hot"),
    "temperature true": asked(temperature=True),
    "top_p zero": asked(top_p=0),
    "top_p infinite": asked(top_p=float("inf")),
    "top_k a fraction": asked(top_k=1.5),
    "top_k below zero": asked(top_k=-1),
    "min_p above one": asked(min_p=1.1),
    "presence_penalty beyond all": asked(presence_penalty=1e30),
    "repetition_penalty zero": asked(repetition_penalty=0),
    "seed of 400 digits": asked(seed=10**400),
    "max_tokens zero": asked(max_tokens=0),
    "max_tokens a fraction": asked(max_tokens=1.5),
    "stop a number": asked(stop=5),
    "stop empty": asked(stop=[""]),
    "a stop id that is a text": asked(stop_token_ids=["a"]),
    "a parameter that there is not": asked(temprature=1),
    "no token": asked([]),
    "a token below zero": asked([-1]),
    "a token beyond the vocabulary": asked([10**6]),
    "a token of 400 digits": asked([10**400]),
    "tokens as fractions": asked([1.5]),
    "tokens in three dimensions": asked([[[1, 2], [3, 4]]]),
    "a prompt of bytes": asked(b"hi"),
    "half a surrogate pair": asked("a\ud800"),
    "more than the context": asked([1] * 100_000),
    "an unknown backend": loaded(backend="cuda"),
    "unknown weights": loaded(weights="q3"),
    "unknown kv": loaded(kv="q4"),
    "no threads": loaded(threads=0),
    "true threads": loaded(threads=True),
    "a device without torch": loaded(device="cuda"),
}


def command(*words: str) -> Attempt:
    """The sentence on stderr of a command, with its exit code checked."""

    def attempt(place: Path) -> Any:
        told, empty = io.StringIO(), io.TextIOWrapper(io.BytesIO())
        with patch("ingot.load", load), contextlib.redirect_stderr(told), patch("sys.stdin", empty):
            assert main([word.replace("DIR", str(place)) for word in words]) == 2
        lines = told.getvalue().split("\n")
        said = "\n".join(line for line in lines if not line.startswith("nugget: ")).strip()
        assert said.startswith("ingot: ")
        raise ValueError(said)

    return attempt


COMMANDS: dict[str, Attempt] = {
    "no such command": command("chatt"),
    "no such option": command("chat", "--temprature", "1"),
    "an empty prompt": command("chat", "-p", ""),
    "words without quotes": command("chat", "what", "is", "this"),
    "a model that is not there": command("plan", "DIR/qwen"),
    "a model that is a file": command("plan", "/etc/passwd"),
    "a configuration that is not there": command("plan", "--config", "DIR/none.json"),
    "a configuration that is a device": command("plan", "--config", "/dev/zero"),
    "both a model and a configuration": command("plan", "DIR", "--config", "2B"),
    "a temperature in words": command("chat", "-p", "hi", "--temperature", "warm"),
    "no tokens": command("chat", "-p", "hi", "--max-tokens", "0"),
    "an unknown backend": command("chat", "-p", "hi", "--backend", "cuda"),
    "tools that are not there": command("chat", "-p", "hi", "--tools", "DIR/tools.json"),
    "nothing on stdin": command("chat"),
}


def rows() -> Iterator[Row]:
    for section, table in (
        ("Pictures", PICTURES),
        ("Messages and tools", MESSAGES),
        ("Parameters", PARAMETERS),
        ("The command line", COMMANDS),
    ):
        yield from (Row(section, name, attempt) for name, attempt in table.items())
