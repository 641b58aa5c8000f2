"""What the Hugging Face hub has of a model: its files with sizes and checksums; and the hub's refusals, in one sentence
each."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingot.store.checksum import digest_of

_NETWORK = ("httpx", "httpcore", "requests", "urllib3")  # what the hub's client has used in its versions


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. The hub knows the `sha256` of a large one, and of any other the id that git gives it."""

    name: str
    nbytes: int
    sha256: str | None
    git_id: str | None

    def is_right(self, path: Path, told: Callable[[int], None] | None = None) -> bool:
        """Whether the bytes at `path` are the hub's; `told` hears how many were read."""
        if path.stat().st_size != self.nbytes:
            return False
        if self.sha256:
            return digest_of(path, "sha256", told) == self.sha256
        return self.git_id is None or digest_of(path, "git", told) == self.git_id


@dataclass(frozen=True)
class Listing:
    """The files of `model` at `commit`, which is what `revision` (a branch, a tag, a commit) was when it was asked."""

    model: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]

    def find(self, name: str) -> HubFile | None:
        return next((file for file in self.files if file.name == name), None)


def listing(model: str, revision: str = "main") -> Listing:
    """What the hub has of `model`; the errors of `explained`."""
    from huggingface_hub import HfApi

    with explained(model, revision):
        info = HfApi().model_info(model, revision=revision, files_metadata=True)
    if not re.fullmatch("[0-9a-f]{40}", str(info.sha)):
        raise ValueError(f"the hub says that {model!r} is at commit {info.sha!r:.60}, which is no commit id")
    files = [
        HubFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else None, one.blob_id)
        for one in info.siblings or ()
    ]
    return Listing(model, revision, str(info.sha), tuple(files))


@contextmanager
def explained(model: str, revision: str = "main") -> Iterator[None]:
    """Turns what the hub's client raises into one sentence: FileNotFoundError, PermissionError or OSError."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError:
        raise PermissionError(
            f"model {model!r} is gated: its files are for those who accepted its conditions\n"
            f"hint: accept them at {hub}/{model}, then `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"model {model!r} is not at {hub}, or not for this user\n"
            "hint: check the name; a private model needs `hf auth login` or HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(
            f"model {model!r} has no revision {revision!r}\nhint: its branches and commits: {hub}/{model}/commits/main"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise FileNotFoundError(
            f"model {model!r} cannot be asked for at {hub}: HF_HUB_OFFLINE is set\nhint: HF_HUB_OFFLINE=0 for one go"
        ) from None
    except errors.HfHubHTTPError as error:
        raise _of_status(model, hub, error.response.status_code) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(_FULL.format(constants.HF_HUB_CACHE)) from None
        if is_cut(error):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConnectionError(
                f"the connection to {hub} failed: {reason}\n"
                "hint: check the network; what has come is kept, and the same command goes on"
            ) from error
        raise


def is_cut(error: Exception) -> bool:
    """Whether the network is to blame."""
    lost = isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(_NETWORK)
    return lost or str(error).startswith("Consistency check failed")  # the client's, of a stream that ended early


_FULL = "{}: the disk is full\nhint: HF_HUB_CACHE names another place; what has come is kept, the same command goes on"


def _of_status(model: str, hub: str, status: int) -> OSError:
    if status in (401, 403):
        return PermissionError(
            f"{hub} refuses model {model!r} to this user (HTTP {status})\nhint: `hf auth login`, or another HF_TOKEN"
        )
    return OSError(f"{hub} answers HTTP {status} for model {model!r}\nhint: try again later")
