"""Nothing that Ingot reads can become code: no pickle, no eval, no YAML objects, in the package or its tools."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml", "code", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {("os", "system"), ("os", "popen"), ("torch", "load"), ("np", "load"), ("numpy", "load"), ("np", "fromfile")}
# Runs of our own training, read back with weights_only=True: tensors and plain values, no objects.
ALLOWED = {("src/ingot/train/checkpoint.py", "torch.load")}


def breaches(source: str) -> list[str]:
    """What in a module could turn a file's content into code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += [*_called(node)]
    return found


def _called(node: ast.Call) -> list[str]:
    function = node.func
    if isinstance(function, ast.Name) and function.id in CALLS:
        return [function.id]
    owner = function.value if isinstance(function, ast.Attribute) else None
    if isinstance(owner, ast.Name) and (owner.id, function.attr) in METHODS:
        return [f"{owner.id}.{function.attr}"]
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    pickles = isinstance(given.get("allow_pickle"), ast.Constant) and given["allow_pickle"].value is True  # type: ignore[union-attr]
    return ["allow_pickle"] if pickles or "trust_remote_code" in given else []


def test_no_module_makes_code_of_a_file():
    files = [path for folder in ("src/ingot", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {(str(path.relative_to(ROOT)), what) for path in files for what in breaches(path.read_text("utf-8"))}
    assert len(files) > 100
    assert found - ALLOWED == set()
    assert "weights_only=True" in (ROOT / "src/ingot/train/checkpoint.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from marshal import loads", "marshal"),
        ("import yaml.loader", "yaml.loader"),
        ("torch.load(path)", "torch.load"),
        ("eval(text)", "eval"),
        ("np.memmap(f, allow_pickle=True)", "allow_pickle"),
    ],
)
def test_a_planted_one_is_found(source, what):
    assert breaches(source) == [what]
