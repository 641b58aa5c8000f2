"""Who may import whom, and which outside packages. `python tools/check_imports.py` exits 1 if the code does otherwise.

A room is a folder or module of `src/ingot`. Every import counts, wherever it stands: a lazy import is a direction too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "ingot"

# room -> what it may import beside the standard library and itself: rooms, then outside packages. "~" allows an outside
# package inside functions only, so that importing the room stays cheap. The most specific room counts: `ops.autograd`
# is not `ops`. transformers is in `verify` alone, and torch in no row that a user without torch meets unasked.
RULES = {
    "spec": "",
    "memory": "",
    "store": "spec numpy ~huggingface_hub",
    "pixels": "numpy ~PIL ~av",
    "prompt": "pixels spec numpy tokenizers jinja2 ~PIL",
    "ops": "numpy",
    "ops.native": "ops spec _native numpy",
    "ops.autograd": "ops numpy torch",
    "model": "spec ops numpy",
    "engine": "model ops spec numpy",
    "nugget": "",
    "answer": "numpy",
    "options": "engine prompt spec numpy",
    "receiving": "answer engine prompt",
    "answering": "answer options engine prompt numpy",
    "divergence": "engine prompt numpy",
    "encoding": "answer engine prompt spec numpy",
    "language_model": "answer answering encoding options receiving engine prompt spec numpy",
    "grounding": "~prompt ~PIL",
    "quant": "model ops prompt spec numpy",
    "cached": "model prompt quant store spec numpy tokenizers",
    "beside": "prompt store",
    "fingerprint": "ops spec store numpy",
    "loading": "beside cached fingerprint language_model memory engine model ops ops.native ops.autograd prompt quant "
    "store spec numpy ~torch",
    "saving": "language_model store spec numpy ~torch",
    "ingot": "loading saving language_model",
    "train": "model ops ops.autograd store prompt spec numpy tokenizers torch",
    "speed": "engine store spec numpy",
    "eval": "ingot language_model answer numpy",
    "verify": "ingot language_model answer engine ops.native prompt store spec speed memory numpy ~torch ~transformers",
    "serve": "ingot answer answering divergence language_model options engine memory prompt spec starlette uvicorn",
    "cli": "ingot loading language_model answer options engine model ops ops.native prompt store spec speed memory "
    "grounding pixels eval serve train verify ~numpy ~prompt_toolkit ~huggingface_hub",
}


def breaches(package: Path = PACKAGE) -> list[str]:
    """One line for each forbidden import, `file:line: sentence`."""
    return [line for path in sorted(package.rglob("*.py")) for line in _breaches_of(path, package)]


def _breaches_of(path: Path, package: Path) -> Iterator[str]:
    module = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip(".")
    room = _room(module)
    if room not in RULES:
        yield f"{path}:1: {room} has no row in RULES of {Path(__file__).name}"
        return
    allowed = RULES[room].split()
    for node, name, lazy in _imports(ast.parse(path.read_text(encoding="utf-8")), path, package):
        target = _target(name)
        if (
            target == room
            or target in allowed
            or target in sys.stdlib_module_names
            or (lazy and f"~{target}" in allowed)
        ):
            continue
        when = " at its top" if f"~{target}" in allowed else ""
        rule = " ".join(allowed) or "the standard library only"
        yield f"{path}:{node.lineno}: {room} imports {target}{when}; it may import {rule}"


def _target(name: str) -> str:
    """The room of a dotted module name, or the outside package."""
    first, *inside = name.split(".")
    return _room(".".join(inside)) if first == "ingot" else first


def _room(module: str) -> str:
    """The most specific row of RULES for a module named from inside the package; "ingot" is the package itself."""
    parts = module.split(".")
    known = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in known if name in RULES), parts[0] or "ingot")


def _imports(tree: ast.AST, path: Path, package: Path, lazy: bool = False) -> Iterator[tuple[ast.stmt, str, bool]]:
    """(statement, dotted name of the module, whether it is inside a function) of every import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, name, lazy) for name in _from(node, path, package))
        else:
            yield from _imports(node, path, package, lazy or _runs_later(node))


def _runs_later(node: ast.AST) -> bool:
    typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    return typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _from(node: ast.ImportFrom, path: Path, package: Path) -> Iterator[str]:
    start = node.module or ""
    if node.level:
        above = path.parents[node.level - 1].relative_to(package.parent).parts
        start = ".".join([*above, *([node.module] if node.module else [])])
    for alias in node.names:  # `from ingot.ops import reference` imports a module, `from ingot.ops import PAGE` a name
        place = package.parent / f"{start}.{alias.name}".replace(".", "/")
        is_module = place.with_suffix(".py").exists() or place.is_dir()
        yield f"{start}.{alias.name}" if is_module else start


if __name__ == "__main__":
    found = breaches()
    print("\n".join(found) or "imports point down")
    sys.exit(bool(found))
