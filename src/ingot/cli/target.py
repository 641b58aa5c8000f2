"""What `ingot bench` and `ingot plan` are about: a model that is here, or a configuration without weights."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.cli import chat
from ingot.cli.failure import UsageError

if TYPE_CHECKING:
    from ingot.spec import Config

WEIGHTS = ("q4", "q8", "bf16", "f32")
KV = ("q8", "bf16", "f32")


@dataclass(frozen=True)
class Target:
    """A configuration, and the directory with its weights (None: only random ones can be run). `stored` is the format
    that holds the weights as stored; `sees` whether a vision tower is there."""

    name: str
    raw: dict[str, Any]
    config: Config
    path: Path | None
    stored: str
    sees: bool


def add_target(parser: Any) -> None:
    """MODEL, --config, --weights, --kv and --threads."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a directory, GGUF file or hub id (default: the nugget)"
    )
    parser.add_argument("--config", metavar="FILE", help="a config.json, or an official size: 0.8B, 2B, 4B, 9B, 27B")
    parser.add_argument("--weights", choices=WEIGHTS, help="default: as stored; bf16 for --config")
    parser.add_argument("--kv", choices=KV, help="format of keys and values (default: f32 for f32 weights, else bf16)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all processors this process may use")


def find(args: argparse.Namespace) -> Target:
    """The target of a command line, from its configuration alone. Raises UsageError and ValueError."""
    found, factor = _find(args), getattr(args, "yarn", None)
    if factor is None:
        return found
    from ingot.spec.config import with_yarn

    return replace(found, config=with_yarn(found.config, factor))


def _find(args: argparse.Namespace) -> Target:
    if args.config is None:
        return _model(args.model)
    if args.model is not None:
        raise UsageError("MODEL and --config exclude each other; --config is for a model that is not here")
    return _of_config(args.config)


def _model(name: str | None) -> Target:
    from ingot.loading import nugget_path, stored_format
    from ingot.spec.config import SIZES
    from ingot.store import open_checkpoint, resolve

    if name and name.lower() in SIZES and not Path(name).exists():
        raise UsageError(f"MODEL is {name!r}; an official size is given with --config\nhint: --config {name}")
    path = nugget_path() if chat.is_nugget(name) else resolve(str(name))
    checkpoint = open_checkpoint(path)
    return Target(name or "nugget", {}, checkpoint.config, path, stored_format(checkpoint), checkpoint.has_vision)


def _of_config(name: str) -> Target:
    from ingot.spec import official
    from ingot.spec.config import CONFIG_BYTES, SIZES
    from ingot.spec.text_file import read_json_object

    if name.lower() in SIZES:
        raw = official(name)
        return _without_weights(name, raw)
    path = Path(name)
    if not path.exists():
        raise UsageError(f"--config is {name!r}; a config.json is needed, or an official size: {', '.join(SIZES)}")
    path = path / "config.json" if path.is_dir() else path
    raw = read_json_object(path, CONFIG_BYTES)
    try:
        return _without_weights(name, raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _without_weights(name: str, raw: dict[str, Any]) -> Target:
    from ingot.spec import parse_config

    config = parse_config(raw)
    return Target(name, raw, config, None, "bf16", config.vision is not None)


@contextmanager
def loaded(target: Target, args: argparse.Namespace, weights: str | None, cache: bool) -> Iterator[Any]:
    """The running model; random weights, in a directory that goes away, where there are none."""
    import ingot

    options = {"weights": weights, "kv": args.kv, "threads": args.threads, "yarn": getattr(args, "yarn", None)}
    options["speculate"] = "off"  # the speed of a pass a token, whatever the text
    if target.path is not None:
        yield ingot.load(target.path, cache=cache, **options)
        return
    from ingot.store import write_random_checkpoint

    with tempfile.TemporaryDirectory(prefix="ingot-random-") as place:
        write_random_checkpoint(place, target.raw, mtp=False)
        yield ingot.load(place, cache=False, **options)
