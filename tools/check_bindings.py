"""Whether every array argument in native/bind*.cpp is `.noconvert()`; `python tools/check_bindings.py` exits 1 if not.

Without it nanobind copies a strided or float64 array, and an update in place is lost.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

NATIVE = Path(__file__).resolve().parent.parent / "native"

PARAMETERS = re.compile(r"^(?:inline )?[\w:<>]+ (\w+)\(Context& context(?:, )?(.*?)\) \{", re.MULTILINE | re.DOTALL)
BOUND = re.compile(r'\.def\(\s*"(\w+)",\s*&(\w+)[^,]*(.*?)\)\s*(?=\.def|;)', re.DOTALL)
MADE = re.compile(r"\.def\(\s*nb::init<(.*?)>\(\)(.*?)\)\s*(?=\.def|;)", re.DOTALL)
ARGUMENT = re.compile(r'"(\w+)"_a([.\w()]*)')
ARRAY = re.compile(r"\b(?:In|Out|ndarray)\b")


def breaches(source: str) -> list[str]:
    """One sentence for each bound argument that is an array and may be converted, or that cannot be told."""
    functions = {name: _types(parameters) for name, parameters in PARAMETERS.findall(source)}
    bound = [(name, functions.get(function), rest) for name, function, rest in BOUND.findall(source) if "_a" in rest]
    bound += [("a constructor", _types(types), rest) for types, rest in MADE.findall(source)]
    found = [sentence for binding in bound for sentence in _breaches_of(*binding)]
    unread = len(ARGUMENT.findall(source)) - sum(len(ARGUMENT.findall(rest)) for _, _, rest in bound)
    return found + ([f"{unread} arguments are bound in a form this check cannot read"] if unread else [])


def _breaches_of(name: str, types: list[str] | None, rest: str) -> list[str]:
    arguments = ARGUMENT.findall(rest)
    if types is None or len(types) != len(arguments):
        count = "cannot be found" if types is None else f"has {len(types)} parameters"
        return [f"{name}: {len(arguments)} named arguments, but its C++ function {count}"]
    return [
        f"{name}: array argument {argument!r} is not .noconvert()"
        for kind, (argument, traits) in zip(types, arguments, strict=True)
        if ARRAY.search(kind) and ".noconvert()" not in traits
    ]


def _types(parameters: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^<]*>)", parameters) if part.strip()]


if __name__ == "__main__":
    problems = [p for file in sorted(NATIVE.glob("bind*.cpp")) for p in breaches(file.read_text(encoding="utf-8"))]
    print("\n".join(problems) or "every bound array is .noconvert()")
    sys.exit(bool(problems))
