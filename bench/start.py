"""From process start to the first token, and decoding from mapped against anonymous weights, interleaved.

    python -m bench.start MODEL --weights q8 [--runs 7] [--against "llama-cli -m model.gguf -p hi -n 1 -st -t 2"]

MODEL needs a tokenizer. Prints medians with the least and the greatest; files in the page cache unless --cold.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ingot

ASK = ["-p", "hi", "--max-tokens", "1"]


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser()
    options.add_argument("model")
    options.add_argument("--weights", default="bf16")
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--against", help="another command that answers with one token")
    options.add_argument(
        "--cold", action="store_true", help="drop the model's files from the page cache before each run"
    )
    options.add_argument("--decode", type=int, default=16, metavar="TOKENS", help="0: leave decoding out")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        starts(args, Path(cache))
        if args.decode:
            decoding(args, Path(cache))


def starts(args: argparse.Namespace, cache: Path) -> None:
    """Whole processes: the first start, later ones, ones without the cache, and the other program."""
    ours = [sys.executable, "-m", "ingot.cli", "chat", args.model, *ASK, "--weights", args.weights]
    env = os.environ | {"INGOT_CACHE": str(cache)}
    files = lambda: [*cache.iterdir(), *Path(args.model).iterdir()]  # noqa: E731
    commands = {"kept": ours, "--no-cache": [*ours, "--no-cache"]}
    if args.against:
        commands["against"] = shlex.split(args.against)
    print(
        f"first start {seconds(ours, env):.2f} s, {sum(f.stat().st_size for f in cache.iterdir()) / 1e6:.0f} MB written"
    )
    runs: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(args.runs):
        for name, command in commands.items():
            if args.cold:
                forget([*files(), *map(Path, filter(os.path.isfile, command))])
            runs[name].append(seconds(command, env))
    show("start to first token, s", runs)


def seconds(command: list[str], env: dict[str, str]) -> float:
    """Wall time of a process that must succeed."""
    begin = time.perf_counter()
    subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True
    )
    return time.perf_counter() - begin


def forget(files: list[Path]) -> None:
    """Drop clean pages from the page cache."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def decoding(args: argparse.Namespace, cache: Path) -> None:
    """Tokens from weights in a mapped file and in anonymous memory."""
    models = {
        "mapped": ingot.load(args.model, weights=args.weights, cache=cache),
        "anonymous": ingot.load(args.model, weights=args.weights, cache=False),
    }
    step: Callable[[ingot.LanguageModel], float] = lambda m: token_ms(m, args.decode)  # noqa: E731
    runs: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        step(model)
    for _ in range(args.runs):
        for name, model in models.items():
            runs[name].append(step(model))
    show("a decoded token, ms", runs)
    print(
        f"mapped / anonymous, paired median {statistics.median(a / b for a, b in zip(*runs.values(), strict=True)):.3f}"
    )


def token_ms(model: ingot.LanguageModel, tokens: int) -> float:
    """Milliseconds a token."""
    model.stop_ids = frozenset()
    usage = model.generate([1, 2, 3], max_tokens=tokens + 1, temperature=0).usage
    return 1e3 * usage.decode_s / tokens


def show(what: str, runs: dict[str, list[float]]) -> None:
    """One line a variant."""
    for name, values in runs.items():
        print(f"{what}: {name:<10} median {statistics.median(values):.3f}  {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    main()
