"""The checkers find what is planted, and the code passes them."""

from __future__ import annotations

import re
import tomllib

import pytest

from tools import check_bindings, check_imports

PLANTED = [
    ("spec/size.py", "import numpy", "spec imports numpy; it may import the standard library only"),
    ("spec/size.py", "from ingot.store import Tensor", "spec imports store"),
    ("model/layer.py", "import torch", "model imports torch"),
    ("model/layer.py", "def f():\n    from ingot.ops.autograd import OpSet", "model imports ops.autograd"),
    ("model/layer.py", "from ..ops import autograd", "model imports ops.autograd"),
    ("engine/step.py", "from ingot.prompt import Tokenizer", "engine imports prompt"),
    ("engine/step.py", "from ingot import load", "engine imports ingot"),
    ("ops/fast.py", "from ingot.ops import native", "ops imports ops.native"),
    ("store/hub.py", "import huggingface_hub", "store imports huggingface_hub at its top"),
    ("loading.py", "import torch", "loading imports torch at its top"),
    ("cli/chat.py", "def f():\n    import torch", "cli imports torch"),
    ("eval/task.py", "from ingot.model import build", "eval imports model"),
    ("prompt/words.py", "if True:\n    import transformers.utils", "prompt imports transformers"),
    ("kitchen/pot.py", "import os", "kitchen has no row in RULES"),
]
ALLOWED = [
    ("spec/size.py", "import json\nfrom ingot.spec import Config\nfrom .config import Config"),
    ("store/hub.py", "def f():\n    from huggingface_hub import snapshot_download"),
    ("cli/chat.py", "import ingot\nfrom ingot.cli import sampling"),
    ("loading.py", "def f():\n    import torch\n    from ingot.ops.autograd import OpSet"),
    ("__init__.py", "def f():\n    from ingot.loading import load"),
]


@pytest.fixture
def package(tmp_path):
    """An empty package with the modules that planted imports name."""
    for name in ("ops/autograd.py", "ops/native.py", "ops/__init__.py", "cli/sampling.py"):
        (tmp_path / "ingot" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ingot" / name).touch()
    return tmp_path / "ingot"


def plant(package, path, source):
    (package / path).parent.mkdir(parents=True, exist_ok=True)
    (package / path).write_text(source)
    return check_imports.breaches(package)


@pytest.mark.parametrize(("path", "source", "sentence"), PLANTED)
def test_a_planted_import_is_found(package, path, source, sentence):
    (found,) = plant(package, path, source)
    assert sentence in found
    assert re.match(rf".*{re.escape(path)}:\d: ", found)


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_an_allowed_import_is_not(package, path, source):
    assert plant(package, path, source) == []


def test_the_code_keeps_to_the_rules():
    assert check_imports.breaches() == []


def test_the_rules_have_no_circle():
    above = dict.fromkeys(check_imports.RULES, "")

    def visit(room, path):
        assert room not in path, f"a circle: {' -> '.join([*path, room])}"
        for below in check_imports.RULES[room].split():
            if below in above:
                visit(below, [*path, room])

    for room in check_imports.RULES:
        visit(room, [])


def test_what_is_imported_is_declared():
    """Outside packages of RULES are dependencies of the distribution; torch and transformers are extras."""
    project = tomllib.loads((check_imports.PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    extras = project["optional-dependencies"]
    needs = [*project["dependencies"], *extras["torch"], *extras["verify"], *extras["video"]]
    declared = {re.split(r"\W", need)[0] for need in needs}
    words = {word.lstrip("~") for row in check_imports.RULES.values() for word in row.split()}
    words = {{"PIL": "pillow"}.get(word, word) for word in words}
    assert words - set(check_imports.RULES) - {"_native"} <= declared


def test_every_bound_array_is_noconvert():
    files = sorted(check_bindings.NATIVE.glob("bind*.cpp"))
    assert [file.name for file in files] == ["bind.cpp", "bind_layers.cpp"]
    assert [breach for file in files for breach in check_bindings.breaches(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("argument", ["state", "x", "data", "y"])
def test_an_array_that_may_be_converted_is_found(argument):
    source = (check_bindings.NATIVE / "bind.cpp").read_text(encoding="utf-8")
    planted = source.replace(f'"{argument}"_a.noconvert()', f'"{argument}"_a', 1)
    assert planted != source
    (found,) = check_bindings.breaches(planted)
    assert f"array argument '{argument}' is not .noconvert()" in found
