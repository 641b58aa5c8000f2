"""The peer: llama.cpp, built from the source inside the `llama-cpp-python` sdist, on the same checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.process import Ran, run

SDIST = "llama-cpp-python==0.3.36"
TARGETS = ("llama-bench", "llama-quantize", "llama-perplexity", "llama-server")
# Our format -> files of theirs to hold beside it: the first has the same bits in body and head, the others are what
# people run. Name -> what llama-quantize is told; bf16 is what the converter writes.
FILES = {
    "bf16": [],
    "q4_0_pure": ["--pure", "Q4_0"],
    "q8_0": ["Q8_0"],
    "q4_0": ["Q4_0"],
    "q4_k_m": ["Q4_K_M"],
}
PEERS = {"bf16": ("bf16",), "q8": ("q8_0",), "q4": ("q4_0_pure", "q4_0", "q4_k_m")}
# Settings tried one after another, each kept if it is faster; the first value is the default.
SETTINGS = {
    "-fa": ("on", "off"),
    "--repack": ("1", "0"),
    "-lm": ("auto", "none"),
    "kv": ("f16", "bf16", "f32"),
    "-ub": ("512", "256", "1024"),
}


@dataclass(frozen=True)
class Test:
    """One call of llama-bench: prefill `prompt` tokens, or decode `tokens` after `depth`."""

    prompt: int = 0
    tokens: int = 0
    depth: int = 0
    repeat: int = 1
    warm_up: bool = True

    def words(self) -> list[str]:
        return [
            *("-p", str(self.prompt), "-n", str(self.tokens), "-d", str(self.depth), "-r", str(self.repeat)),
            *([] if self.warm_up else ["--no-warmup"]),
        ]


def built(directory: Path) -> Path:
    """The source tree in `directory` with its programs built; downloaded and built once (a quarter of an hour)."""
    found = sorted(directory.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if not found:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", directory, SDIST]
        subprocess.run(list(map(str, pip)), check=True)
        with tarfile.open(next(directory.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(directory, filter="data")
        found = sorted(directory.glob("llama_cpp_python-*/vendor/llama.cpp"))
    source = found[-1]
    if not all((source / "build/bin" / name).exists() for name in TARGETS):
        _mend_tile_config(source)
        make = [["cmake", "-B", "build", "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF"]]
        make += [["cmake", "--build", "build", "-j", str(os.cpu_count()), "--target", *TARGETS]]
        for words in make:
            subprocess.run(words, cwd=source, check=True)
    return source


def _mend_tile_config(source: Path) -> None:
    """gcc's _tile_loadconfig says it reads eight bytes, and gcc drops the stores to the rest: the AMX backend then
    crashes at its first product. One barrier lets the peer be at its best."""
    path = source / "ggml/src/ggml-cpu/amx/mmq.cpp"
    text, call = path.read_text(), "    _tile_loadconfig(&tc);"
    barrier = '    asm volatile("" : : "r"(&tc) : "memory");\n'
    if call in text and barrier not in text:
        path.write_text(text.replace(call, barrier + call))


def model_file(source: Path, checkpoint: Path, name: str) -> Path:
    """`checkpoint` as NAME.gguf beside it, converted and quantised by llama.cpp's own programs; made once."""
    path = checkpoint / f"{name}.gguf"
    if path.exists():
        return path
    made = path.with_suffix(".part")
    if name == "bf16":
        script = Path(__file__).with_name("convert.py")
        words: list[object] = [sys.executable, script, source, checkpoint, "--no-mtp", "--outtype", "bf16"]
        words += ["--outfile", made]
    else:
        *options, kind = FILES[name]
        words = [source / "build/bin/llama-quantize", *options, model_file(source, checkpoint, "bf16"), made, kind]
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made.rename(path)
    return path


def bench(source: Path, path: Path, test: Test, threads: int, settings: dict[str, str]) -> tuple[dict[str, Any], Ran]:
    """llama-bench's record of the test, and what its process cost."""
    ran = run([source / "build/bin/llama-bench", "-m", path, *words(test, threads, settings)])
    return json.loads(ran.stdout.splitlines()[-1]), ran


def words(test: Test, threads: int, settings: dict[str, str]) -> list[str]:
    """The options of llama-bench behind `-m FILE`."""
    chosen = [word for key, value in settings.items() for word in _option(key, value)]
    return ["-o", "jsonl", "-t", str(threads), *test.words(), *chosen]


def _option(key: str, value: str) -> list[str]:
    return ["-ctk", value, "-ctv", value] if key == "kv" else [key, value]


def tuned(rate: Callable[[dict[str, str]], float], keys: tuple[str, ...], start: dict[str, str]) -> dict[str, str]:
    """The settings of the highest `rate`: `start` with each of `keys` searched in turn; what does not run, does not
    win."""
    best = {**{key: SETTINGS[key][0] for key in keys}, **start}
    if not keys:
        return best
    highest = rate(best)
    for key in keys:
        for value in SETTINGS[key]:
            tried = {**best, key: value}
            if tried == best:
                continue
            try:
                found = rate(tried)
            except RuntimeError:
                continue
            if found > highest:
                best, highest = tried, found
    return best
