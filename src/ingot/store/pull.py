"""Downloading a model from the Hugging Face hub into the cache that its own client keeps: the files that Ingot reads,
resumed where a download was cut, and compared with the hub's checksums.

The client's present versions begin a large file anew after every interruption. So large files are fetched here, into
the client's place for them, and the client does the rest: names, links, small files.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ingot.spec import read_config
from ingot.store.checkpoint import COMPANIONS
from ingot.store.checksum import Progress, Sum
from ingot.store.hub import repository
from ingot.store.listing import HubFile, Listing, explained, is_cut, listing
from ingot.store.shards import INDEX, SINGLE, read_index

_WITHOUT_TOKENIZER_JSON = ("vocab.json", "merges.txt")  # else they say the same a second time
_OTHER_WEIGHTS = ("adapter_", "consolidated")  # begin the names of safetensors files that are not the model's
_SPLIT = re.compile(r"(.*)-\d{5}-of-(\d{5})(\.gguf)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Plan:
    """What a pull is to bring: `files`, of which `missing` are not in the cache yet, with `to_fetch` bytes."""

    listing: Listing
    files: tuple[HubFile, ...]
    missing: tuple[HubFile, ...]
    to_fetch: int

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @property
    def snapshot(self) -> Path:
        """The directory in which the files are, or will be."""
        return repository(self.listing.model) / "snapshots" / self.listing.commit


def free_bytes() -> int:
    """What the disk of the hub's cache has left."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def plan_pull(model: str, revision: str = "main", files: Sequence[str] = ()) -> Plan:
    """What is to be fetched of `model` at `revision`: the files that Ingot reads, or those named in `files`.

    Fetches config.json and the index already, if there are any. Raises ValueError for a model that Ingot does not run
    and for a file that is not there; FileNotFoundError, PermissionError or OSError when the hub refuses.
    """
    found = listing(model, revision)
    chosen = _named(found, files) if files else _needed(found)
    missing = tuple(file for file in chosen if not _is_here(found, file))
    return Plan(found, tuple(chosen), missing, sum(file.nbytes - _begun(found, file) for file in missing))


def _is_here(found: Listing, file: HubFile) -> bool:
    return (repository(found.model) / "snapshots" / found.commit / file.name).is_file()


def _begun(found: Listing, file: HubFile) -> int:
    with suppress(OSError):
        return min(_partial(found.model, file.sha256 or "").stat().st_size, file.nbytes)
    return 0


def _partial(model: str, digest: str) -> Path:
    return repository(model) / "blobs" / f"{digest}.incomplete"


def _named(found: Listing, names: Sequence[str]) -> list[HubFile]:
    """The files asked for; a part of a split GGUF file brings the others."""
    chosen: dict[str, HubFile] = {}
    for name in names:
        file = found.find(name)
        if file is None:
            near = difflib.get_close_matches(name, [one.name for one in found.files], n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {_listed(found.files)}"
            raise ValueError(f"model {found.model!r} has no file {name!r} at {found.revision}\nhint: {hint}")
        split = _SPLIT.fullmatch(name)
        parts = [one for one in found.files if split and _same_split(split, _SPLIT.fullmatch(one.name))]
        chosen |= {one.name: one for one in parts or [file]}
    return list(chosen.values())


def _same_split(a: re.Match[str], b: re.Match[str] | None) -> bool:
    return b is not None and a.groups() == b.groups()


def _needed(found: Listing) -> list[HubFile]:
    small = [name for name in COMPANIONS if found.find(name)]
    if "tokenizer.json" in small:
        small = [name for name in small if name not in _WITHOUT_TOKENIZER_JSON]
    weights = _weights(found)
    if "config.json" not in small:
        raise ValueError(f"model {found.model!r} has no config.json at {found.revision}, which tells its sizes")
    read_config(_fetch_small(found, "config.json"))
    return [file for name in [*small, *weights] if (file := found.find(name))]


def _weights(found: Listing) -> list[str]:
    """Names of the weights' files, an index first: never the same weights twice."""
    if found.find(INDEX):
        shards = sorted(set(read_index(_fetch_small(found, INDEX)).values()))
        absent = [name for name in shards if not found.find(name)]
        if absent:
            raise ValueError(f"model {found.model!r} has no {absent[0]} at {found.revision}, which its {INDEX} names")
        return [INDEX, *shards]
    if found.find(SINGLE):
        return [SINGLE]
    there = [file.name for file in found.files if file.name.endswith(".safetensors") and "/" not in file.name]
    there = [name for name in there if not name.startswith(_OTHER_WEIGHTS)]
    if not there:
        raise _without_safetensors(found)
    return there


def _without_safetensors(found: Listing) -> ValueError:
    gguf = [file for file in found.files if file.name.endswith(".gguf")]
    if gguf:
        hint = f"choose with --file: {_listed(gguf)}"
        return ValueError(f"model {found.model!r} holds GGUF files, each a model of its own\nhint: {hint}")
    return ValueError(
        f"model {found.model!r} has no *.safetensors files at {found.revision}; it has {_listed(found.files)}"
    )


def _listed(files: Sequence[HubFile]) -> str:
    names = [f"{file.name} ({size(file.nbytes)})" for file in files[:12]]
    return ", ".join(names) + (", ..." if len(files) > 12 else "") if files else "nothing"


def size(nbytes: int) -> str:
    """`nbytes` for people."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e5 else f"{nbytes} B"


def pull(plan: Plan, progress: Progress | None = None) -> Path:
    """Fetch what is missing and return the directory of the model in the cache.

    A file appears under its name when it is whole and has the hub's checksum; of one that was cut, the beginning stays
    and the next pull goes on from it. `progress` hears bytes done and in all; without it the hub's own bars are shown.
    Raises OSError when the disk cannot hold it, before anything is fetched, and for damaged files and lost connections.
    """
    found = plan.listing
    free = free_bytes()
    if plan.to_fetch > free:
        raise OSError(
            f"{repository(found.model).parent}: {size(plan.to_fetch)} are to come, and the disk has {size(free)} left\n"
            "hint: HF_HUB_CACHE names another place; `hf cache rm` frees this one"
        )
    tell = Sum(progress, plan.to_fetch)
    with explained(found.model, found.revision), _silent(progress is not None):
        for file in plan.missing:
            _fetch(found, file, tell)
        _point(found)
    return plan.snapshot


@contextmanager
def _silent(silent: bool) -> Iterator[None]:
    """Without the client's progress bars and its warnings about retries."""
    from huggingface_hub import utils

    before, shown = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    if silent:
        utils.logging.set_verbosity_error()
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if silent:
            utils.logging.set_verbosity(before)
            if shown:
                utils.enable_progress_bars()


def _fetch_small(found: Listing, name: str) -> Path:
    """The file, by the client; one that is damaged in the cache is fetched again."""
    from huggingface_hub import hf_hub_download

    file = found.find(name)
    for _ in range(2):
        with explained(found.model, found.revision), _silent(True):
            path = Path(hf_hub_download(found.model, name, revision=found.commit))
        if file is None or file.is_right(path):
            return path
        remove(path)
    raise _damaged(name)


def _fetch(found: Listing, file: HubFile, tell: Callable[[int], None]) -> None:
    if file.sha256 is None:
        _fetch_small(found, file.name)
        tell(file.nbytes)
        return
    _fetch_large(found, file, file.sha256, tell)
    _link(found, file.name)


def _link(found: Listing, name: str) -> None:
    """The client finds the bytes in their place and gives them their name."""
    from huggingface_hub import hf_hub_download

    hf_hub_download(found.model, name, revision=found.commit)


def _fetch_large(found: Listing, file: HubFile, digest: str, tell: Callable[[int], None]) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    if not _SHA256.fullmatch(digest):
        raise ValueError(f"the hub gives {file.name} the checksum {digest!r:.80}, which is not a sha256")
    home = repository(found.model)
    blob, partial = home / "blobs" / digest, _partial(found.model, digest)
    lock = home.parent / ".locks" / home.name / f"{digest}.lock"  # the client's own
    for place in (blob.parent, lock.parent):
        place.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.is_file():
            return
        about = get_hf_file_metadata(hf_hub_url(found.model, file.name, revision=found.commit))
        _complete(partial, about.location, file, tell)
        if not file.is_right(partial):
            partial.unlink()
            raise _damaged(file.name)
        partial.replace(blob)


def _complete(partial: Path, url: str, file: HubFile, tell: Callable[[int], None]) -> None:
    """Fetch what is not there yet of a large file, as long as something comes."""
    from huggingface_hub.file_download import http_get

    if partial.is_file() and partial.stat().st_size > file.nbytes:
        partial.unlink()
    partial.touch()
    while (begun := partial.stat().st_size) < file.nbytes:
        try:
            with partial.open("ab") as out:
                counted: Any = _Counted(out, tell)
                http_get(url, counted, resume_size=begun, headers=_headers(url), expected_size=file.nbytes)
        except Exception as error:
            if not is_cut(error) or partial.stat().st_size <= begun:
                raise


def _headers(url: str) -> dict[str, str]:
    """The token is for the hub alone, not for the store of files to which it may send us."""
    from urllib.parse import urlparse

    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    same = urlparse(url).netloc == urlparse(constants.ENDPOINT).netloc
    headers: dict[str, str] = build_hf_headers(token=None if same else False)
    return headers


class _Counted:
    """A file that tells how much was written."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], None]) -> None:
        self._file, self._told = file, tell

    def write(self, data: bytes) -> int:
        self._told(len(data))
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _damaged(name: str) -> OSError:
    return OSError(f"{name}: what came has not the hub's checksum, and was removed\nhint: the same command tries again")


def _point(found: Listing) -> None:
    """Let the revision's name lead to the commit: from now on this snapshot is what the cache has of the model."""
    if found.revision == found.commit:
        return
    ref = repository(found.model) / "refs" / found.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    partial = ref.with_name(f".{ref.name}.{os.getpid()}.partial")
    partial.write_text(found.commit)
    partial.replace(ref)


def remove(path: Path) -> None:
    """Take a file of a snapshot away, with the bytes that it leads to."""
    bytes_of_it = path.resolve()
    path.unlink(missing_ok=True)
    bytes_of_it.unlink(missing_ok=True)
