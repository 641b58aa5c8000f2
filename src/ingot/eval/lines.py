"""Lists of texts from the files beside the code: sections in brackets, a line an entry, `#` comments."""

from __future__ import annotations

from importlib import resources


def sections(file: str) -> dict[str, tuple[str, ...]]:
    """The entries of each section of `file`, in order."""
    found: dict[str, list[str]] = {}
    for line in resources.files("ingot.eval").joinpath(file).read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            found[line[1:-1]] = entries = []
        elif line and not line.startswith("#"):
            entries.append(line)
    return {name: tuple(entries) for name, entries in found.items()}
