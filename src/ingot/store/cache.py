"""Where what a start can be spared is kept: packed weights and compiled tokenizers, one file each, and folders with
the states of prompts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ingot.store import records
from ingot.store.packed import PackedFile, remove_abandoned
from ingot.store.record_folder import SUFFIX as _RECORDS

PREFIX = "prefix"  # the folder of the folders with states of prompts (`store/journal.py`)
_SUFFIX = ".packed.safetensors"


@dataclass(frozen=True)
class Entry:
    """One file of the cache: `what` is a weight format, "tokenizer" or "prompts", `model` the directory it was made
    from.

    A damaged file has no model.
    """

    path: Path
    nbytes: int
    model: str
    what: str

    def verify(self) -> bool:
        """Whether every byte is as it was written; reads them all."""
        if self.path.suffix == _RECORDS:
            return records.verify(self.path)
        return PackedFile(self.path).verify()


def cache_directory() -> Path:
    """$INGOT_CACHE, or `ingot` in the place that the system has for caches. OSError when there is none."""
    if given := os.environ.get("INGOT_CACHE"):
        return Path(given).expanduser()
    try:
        home = Path.home()
    except RuntimeError:
        raise OSError("this user has no home directory\nhint: set INGOT_CACHE to a directory") from None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "ingot"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "ingot" / "cache"
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else home / ".cache") / "ingot"  # a relative one is to be ignored


def cache_file(directory: Path, model: Path, what: str) -> Path:
    """The file for `what` of the checkpoint directory `model`: what has become stale is replaced, not added to."""
    place = os.path.realpath(model)
    readable = re.sub(r"[^\w.-]", "-", os.path.basename(place))[:40]
    return directory / f"{readable}-{what}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}{_SUFFIX}"


def source_of(model: Path, what: str, version: str, files: Sequence[tuple[object, ...]]) -> str:
    """What a cache file is made from, as text; files that differ in it are not of the same thing."""
    return json.dumps({"model": os.path.realpath(model), "what": what, "version": version, "files": files})


def entries(directory: Path) -> list[Entry]:
    """What the cache holds, by model."""
    found = [_entry(path) for path in directory.glob(f"*{_SUFFIX}")]
    found += [_prompts(path) for path in directory.glob(f"{PREFIX}/*/*{_RECORDS}")]
    return sorted(found, key=lambda entry: (entry.model, entry.what, entry.path))


def _entry(path: Path) -> Entry:
    with suppress(OSError, ValueError):
        source = json.loads(PackedFile(path).source)
        return Entry(path, path.stat().st_size, str(source["model"]), str(source["what"]))
    return Entry(path, path.stat().st_size, "", "damaged")


def _prompts(path: Path) -> Entry:
    with suppress(OSError, ValueError):
        return Entry(path, path.stat().st_size, str(json.loads(records.about(path))["model"]), "prompts")
    return Entry(path, path.lstat().st_size, "", "damaged")


def about_prompts(model: Path) -> str:
    """What a file with states of a model's prompts says about itself."""
    return json.dumps({"model": os.path.realpath(model)})


def clear(directory: Path, model: Path | None = None) -> list[Entry]:
    """Remove and return the files of one model, or all; programs that have them open go on."""
    remove_abandoned(directory)
    wanted = None if model is None else os.path.realpath(model)
    removed = [entry for entry in entries(directory) if wanted in (None, entry.model)]
    for entry in removed:
        entry.path.unlink()
        if entry.path.suffix == _RECORDS:
            with suppress(OSError):  # others are in it
                entry.path.parent.rmdir()
    return removed
