"""What `ingot doctor` finds out about the machine and the installation. Nothing here runs a model."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 2**30
COMPILER_HINT = "install a C++20 compiler and repeat `pip install --no-cache-dir .`"
NEEDED = ("numpy", "tokenizers", "jinja2", "huggingface_hub", "prompt_toolkit", "starlette", "uvicorn")
CGROUPS = ("/sys/fs/cgroup/{}", "/sys/fs/cgroup/memory/{}")


@dataclass(frozen=True)
class Finding:
    """One thing found. state: ok, info, warning or failure; `data` has the figures for --json."""

    name: str
    state: str
    text: str
    hint: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def software() -> Iterator[Finding]:
    """Ingot, Python and the system."""
    import ingot

    place = str(Path(ingot.__file__).parent)
    yield Finding("ingot", "ok", f"{ingot.__version__} in {place}", data={"version": ingot.__version__, "path": place})
    python = f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"
    yield Finding("python", "ok", python, data={"version": platform.python_version()})
    yield Finding("platform", "info", f"{platform.platform()}, {platform.machine()}")


def kernels() -> Iterator[Finding]:
    """The native op set, or loudly why there is none."""
    if importlib.util.find_spec("ingot._native") is None:
        text = "the native kernels are NOT BUILT: numpy computes, 10 to 100 times slower"
        yield Finding("kernels", "warning", text, COMPILER_HINT, {"native": False})
        return
    try:
        from ingot.ops.native import OpSet, available_isas

        ops, isas = OpSet(), available_isas()
    except Exception as error:
        yield Finding("kernels", "failure", f"the native kernels are there but do not load: {error}", COMPILER_HINT)
        return
    text = f"native {ops.isa}, {_count(ops.threads, 'thread')} of {', '.join(isas)}"
    yield Finding("kernels", "ok", text, data={"native": True, "isa": ops.isa, "isas": isas, "threads": ops.threads})
    if ops.isa == "scalar":
        text = "only the scalar kernels run on this processor: right, but several times slower"
        yield Finding("kernels", "warning", text)


def packages() -> Iterator[Finding]:
    """The packages Ingot needs, and those it can use."""
    found = {name: _version(name) for name in (*NEEDED, "torch")}
    missing = [name for name in NEEDED if found[name] is None]
    text = ", ".join(f"{name} {version}" for name, version in found.items() if version and name != "torch")
    if missing:
        hint = f"pip install {' '.join(missing)}"
        yield Finding("packages", "failure", f"missing: {', '.join(missing)} (found: {text})", hint, {"found": found})
    else:
        yield Finding("packages", "ok", text, data={"found": found})
    torch = f"{found['torch']} (--backend torch)" if found["torch"] else "not installed, and only needed for training"
    yield Finding("torch", "info", torch)
    av = _version("av")
    yield Finding("video", "info", f"PyAV {av}" if av else "no video files: pip install 'ingot-lm[video]' adds them")


def resources() -> Iterator[Finding]:
    """Memory and processors, as the system has them and as this process may use them."""
    total, free, limit = _memory()
    parts = [f"{total / GIB:.1f} GiB" if total else "unknown"]
    parts += [f"{free / GIB:.1f} GiB free"] if free else []
    parts += [f"limit of the control group {limit / GIB:.1f} GiB"] if limit else []
    yield Finding("memory", "info", ", ".join(parts), data={"total": total, "free": free, "limit": limit})
    from ingot.ops.processors import allowed_cpus, cpu_quota, default_threads

    cores, allowed, quota, threads = os.cpu_count() or 1, len(allowed_cpus()), cpu_quota(), default_threads()
    text = f"{allowed} of {cores}" + (f", of which the control group grants {quota:g}" if quota else "")
    text += f": {_count(threads, 'thread')} unless told otherwise"
    data = {"cores": cores, "allowed": allowed, "quota": quota or 0.0, "threads": threads}
    yield Finding("processors", "info", text, data=data)


def models() -> Iterator[Finding]:
    """Where models from the hub are kept, and whether new ones can come."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE)
    names = sorted(entry.name[8:].replace("--", "/") for entry in place.glob("models--*")) if place.is_dir() else []
    listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    offline = bool(constants.HF_HUB_OFFLINE)
    text = f"{_count(len(names), 'model')} in {place}{f': {listed}' if names else ''}"
    text += "; HF_HUB_OFFLINE is set: no downloads" if offline else ""
    yield Finding("hub cache", "info", text, data={"path": str(place), "models": names, "offline": offline})


def _version(name: str) -> str | None:
    """The installed version of a package; None when it cannot be imported. torch is not imported: it takes seconds."""
    if importlib.util.find_spec(name) is None:
        return None
    if name != "torch":
        try:
            importlib.import_module(name)
        except Exception:  # there, but broken: as good as missing
            return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _memory() -> tuple[int, int, int]:
    """Bytes in all, bytes free, and the control group's limit; 0 for what cannot be known here."""
    total = free = 0
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _first_number("memory.max", "memory.limit_in_bytes")
    return total, free, limit if 0 < limit < (total or 2**60) else 0


def _first_number(*names: str) -> int:
    for name in names:
        for place in CGROUPS:
            try:
                return int(Path(place.format(name)).read_text())
            except (OSError, ValueError):  # not there, or "max"
                continue
    return 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
