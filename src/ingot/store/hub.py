"""From what the user calls a model to its place: a path, or a Hugging Face id in the cache or on the hub."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from ingot.spec.config import SIZES
from ingot.spec.text_file import shown
from ingot.store.foreign import PICKLE, PICKLES
from ingot.store.gguf import is_gguf
from ingot.store.shards import INDEX, read_index

_HUB_ID = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?/[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
)
_BY_HAND = (
    "hint: HF_HUB_OFFLINE=0 allows it; or run `ingot pull {0}` on a machine with a network, "
    "copy the directory that it prints (`cp -rL`: it holds links), and give its path"
)
_WEIGHT_FILES = (".safetensors", ".gguf", *PICKLES)


def resolve(model: str | os.PathLike[str]) -> Path:
    """The place of `model`: an existing directory or GGUF file, or the directory of a hub id "org/name".

    An id is looked up in the Hugging Face cache (HF_HOME, HF_HUB_CACHE) first and only then downloaded. Raises
    ValueError for another file or an impossible name, FileNotFoundError when nothing was found; both name what is near.
    """
    if not os.fspath(model):
        raise ValueError("model is empty; a directory or a hub id such as 'Qwen/Qwen3.5-0.8B' is needed")
    if "\0" in str(model):
        raise ValueError(f"model is {shown(str(model))}, which cannot be a path")
    path = Path(model).expanduser()
    try:
        is_directory, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise ValueError(f"model is {str(path)!r:.80}, which cannot be a path: {error.strerror}") from None
    if is_directory or (is_file and is_gguf(path)):
        return path
    if is_file or path.suffix in _WEIGHT_FILES:
        raise _about_file(path)
    if not isinstance(model, str) or not is_hub_id(model):
        raise _about_missing(path)
    cached = _cached(model)
    if cached is not None:
        return cached
    if path.parent.is_dir():
        # "models/qwen" is far more often a misspelt path than an id: fetch no stranger's repository by accident.
        raise _about_missing(path)
    return _download(model)


def is_hub_id(name: str) -> bool:
    """Whether a model on the hub could have this name."""
    plain = _HUB_ID.fullmatch(name) is not None and len(name) <= 96  # the hub's own limit
    return plain and "--" not in name and ".." not in name and not name.endswith(".git")


def _about_file(path: Path) -> Exception:
    if not path.exists():
        return _about_missing(path)
    if path.suffix in PICKLES:
        return ValueError(f"{path}: is {PICKLE}")
    hint = f"\nhint: give its directory, {path.parent}" if (path.parent / "config.json").is_file() else ""
    return ValueError(
        f"{path}: is a file; a checkpoint is a directory with config.json and *.safetensors, or a GGUF file{hint}"
    )


def _about_missing(path: Path) -> FileNotFoundError:
    """What is wrong with a path that is not there: its first missing part, and what stands in its place."""
    above = path
    while not above.parent.is_dir():
        above = above.parent
    official = {name.lower(): name for name in (*(f"Qwen3.5-{s.upper()}" for s in SIZES), "Qwen3.6-27B", "Qwen3.8-27B")}
    siblings = sorted(entry.name for entry in above.parent.iterdir())
    near = difflib.get_close_matches(above.name, siblings, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(str(above.parent / name) for name in near)}?"
    elif path.name.lower() in official:
        hint = f"did you mean the hub id 'Qwen/{official[path.name.lower()]}'?"
    elif siblings:
        hint = f"{above.parent} holds {', '.join(siblings[:6])}{', ...' if len(siblings) > 6 else ''}"
    else:
        hint = f"{above.parent} is empty"
    if path.suffix in _WEIGHT_FILES:
        return FileNotFoundError(f"{path}: there is no such file\nhint: {hint}")
    return FileNotFoundError(
        f"{path}: there is no such directory, and it is not the id of a model in the cache\nhint: {hint}"
    )


def _near_path(model: str) -> str:
    """A hint line with the directory that `modles/qwen` means: misspelt in its first part, it looks like an id."""
    first, name = model.split("/")
    try:
        for above in difflib.get_close_matches(first, [entry.name for entry in Path().iterdir()]):
            below = [entry.name for entry in Path(above).iterdir()] if Path(above).is_dir() else []
            for near in difflib.get_close_matches(name, below, n=1):
                return f"hint: did you mean the directory {Path(above, near)}?"
    except OSError:  # a directory that may not be read holds no help
        pass
    return ""


def _cached(model: str) -> Path | None:
    """The newest snapshot in the cache, if the files that every checkpoint needs are in it."""
    snapshot = cached_snapshot(model)
    return snapshot if snapshot is not None and is_complete(snapshot) else None


def cached_snapshot(model: str, revision: str = "main") -> Path | None:
    """The directory of a revision in the hub's cache, whole or not.

    Not by the client's `snapshot_download(local_files_only=True)`: that takes a snapshot without its README for an
    incomplete one.
    """
    home = repository(model)
    ref = home / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    snapshot = home / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None


def repository(model: str) -> Path:
    """The place of a model in the hub's cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE).expanduser() / repo_folder_name(repo_id=model, repo_type="model")


def is_complete(snapshot: Path) -> bool:
    """Whether the configuration and all the weights are there: an interrupted download leaves a snapshot too."""
    if not (snapshot / "config.json").is_file():
        return False
    if not (snapshot / INDEX).is_file():
        return any(snapshot.glob("*.safetensors"))
    try:
        return all((snapshot / shard).is_file() for shard in read_index(snapshot / INDEX).values())
    except ValueError:
        return False


def _download(model: str) -> Path:
    from huggingface_hub import constants

    from ingot.store.pull import plan_pull, pull

    near_hint = _near_path(model)
    tried = f"model {model!r} is not in the cache {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        hint = near_hint or _BY_HAND.format(model)
        raise FileNotFoundError(f"{tried}, and HF_HUB_OFFLINE forbids a download\n{hint}")
    try:
        return pull(plan_pull(model))
    except (OSError, ValueError) as error:
        reason, _, hint = str(error).partition("\n")
        hint = near_hint or hint or f"hint: `ingot pull {model}` tries again"
        raise FileNotFoundError(f"{tried}, and downloading it failed: {reason}\n{hint}") from error
