"""Files: digests, configuration, every weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ingot.spec.cost import parameters
from ingot.store.checkpoint import COMPANIONS
from ingot.store.checksum import Sum, digest_of, known_digest
from ingot.verify.check import FailedError, Found, SkippedError
from ingot.verify.subject import Subject

QUICK_BYTES = 100 << 20  # a larger file is not read by --quick


def digests(subject: Subject) -> Found:
    """The SHA-256 of every file of the checkpoint, compared with the hub's where its cache tells."""
    paths = [path for path in sorted(subject.path.iterdir()) if _belongs(path)]
    read = [path for path in paths if not subject.quick or path.stat().st_size <= QUICK_BYTES]
    tell = Sum(subject.told, sum(path.stat().st_size for path in read))
    data: dict[str, Any] = {}
    for path in read:
        data[path.name] = {"bytes": path.stat().st_size, "sha256": digest_of(path, "sha256", tell)}
        if known := known_digest(path):
            found = data[path.name]["sha256"] if known[0] == "sha256" else digest_of(path, "git")
            data[path.name]["hub"] = found == known[1]
    wrong = [name for name, about in data.items() if about.get("hub") is False]
    if wrong:
        raise FailedError(f"{', '.join(wrong)}: not the bytes that the hub gave", {"files": data})
    compared = sum("hub" in about for about in data.values())
    text = f"{len(data)} files, {sum(about['bytes'] for about in data.values()) / 1e9:.2f} GB"
    text += f"; {compared} equal to the hub's digests" if compared else "; not from the hub's cache: nothing to compare"
    text += f"; {len(paths) - len(read)} large not read" if len(read) < len(paths) else ""
    return text, {"files": data}


def _belongs(path: Path) -> bool:
    name = path.name
    return path.is_file() and (name in COMPANIONS or name.endswith((".safetensors", ".safetensors.index.json")))


def configuration(subject: Subject) -> Found:
    """config.json, and every tensor's name, shape and dtype against the weights table."""
    checkpoint = subject.checkpoint
    config, table = checkpoint.config, checkpoint.table
    parts = [name for name, there in (("MTP", checkpoint.has_mtp), ("vision", checkpoint.has_vision)) if there]
    data = {
        "layers": config.text.num_hidden_layers,
        "hidden_size": config.text.hidden_size,
        "vocab_size": config.text.vocab_size,
        "tied": config.tie_word_embeddings,
        "parameters": parameters(config, "text"),
        "tensors": len(table),
        "dtype": checkpoint.dtype,
        "components": parts,
    }
    text = f"{config.text.num_hidden_layers} layers of {config.text.hidden_size}, {len(table)} tensors, most "
    return text + f"{checkpoint.dtype}; with {' and '.join(parts) or 'text alone'}", data


def weights(subject: Subject) -> Found:
    """Every value of every tensor is finite."""
    if subject.quick:
        raise SkippedError("--quick: weights are looked at as they are packed")
    checkpoint = subject.checkpoint
    tell = Sum(subject.told, sum(_size(subject, name) for name in checkpoint.table))
    for name in checkpoint.table:
        checkpoint.read(name)  # raises for the first value that is not finite
        checkpoint.release(name)
        tell(_size(subject, name))
    return f"all values of {len(checkpoint.table)} tensors are finite", {}


def _size(subject: Subject, name: str) -> int:
    info = subject.checkpoint.info(name)
    return info.end - info.begin
