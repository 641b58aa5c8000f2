"""The picture of a cache: of a real run with the nugget, and of keys that are given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

import ingot
from tools import cache_tree
from tools.cache_tree import as_svg, as_text, runs

DRAWN = Path(__file__).resolve().parents[2] / "docs" / "prefix_cache.svg"
SVG = "{http://www.w3.org/2000/svg}"


class Letters:
    def decode(self, ids):
        return "".join(map(chr, ids))


def keys(text):
    return np.array([[ord(letter)] + [0] * 7 for letter in text], np.int32).reshape(-1, 8)


def cache_of(pages, tails):
    """Pages of any length by name, each after its parent; snapshots as (page, tail, kind)."""
    nodes = {}
    for name, (parent, text) in pages.items():
        above = nodes.get(parent)
        path = [*(above.path() if above else [])]
        node = SimpleNamespace(keys=keys(text), children={}, path=lambda path=path: path)
        path.append(node)
        nodes[name] = node
        if above:
            above.children[name] = node
    snapshots = [SimpleNamespace(node=nodes[at], tail=keys(tail), kind=kind) for at, tail, kind in tails]
    return SimpleNamespace(nodes=lambda: iter(nodes.values()), snapshots=snapshots)


def test_a_tree_of_given_pages():
    pages = {"a": (None, "once"), "b": ("a", "upon"), "c": ("a", "more")}
    found = runs(cache_of(pages, [("a", "", "system"), ("a", "up", "turn"), ("b", "", "end"), ("c", "or<&", "end")]))
    assert list(as_text(found, Letters())) == [
        "   0-4    'once'  [system 4]",
        "       4-12   'moreor<&'  [end 12]",
        "       4-8    'upon'  [turn 6]  [end 8]",
    ]
    root = ElementTree.fromstring(as_svg(found, Letters()))
    tips = [title.text for title in root.iter(f"{SVG}title")]
    assert "tokens 4 to 12: moreor<&" in tips
    assert sorted(tip for tip in tips if "after" in tip) == [
        "end, after 12 tokens",
        "end, after 8 tokens",
        "system, after 4 tokens",
        "turn, after 6 tokens",
    ]


def test_a_prompt_that_is_the_beginning_of_another_is_no_branch():
    found = runs(cache_of({"a": (None, "once upon")}, [("a", "", "end"), ("a", " a", "turn"), ("a", " a time", "end")]))
    assert list(as_text(found, Letters())) == ["   0-16   'once upon a time'  [end 9]  [turn 11]  [end 16]"]


@pytest.fixture(scope="module")
def nugget():
    try:
        model = ingot.load(prefix_cache=64 << 20)
    except (ValueError, FileNotFoundError):
        pytest.skip("the nugget's weights are not here")
    if not model.engine.cache.enabled:
        pytest.skip("no cache without kernels")
    cache_tree.conversation(model)
    return model


def test_every_snapshot_of_a_real_run_is_drawn_once(nugget):
    found = runs(nugget.engine.cache)
    drawn = list(marks(found))
    assert sorted(drawn) == sorted((one.position, one.kind) for one in nugget.engine.cache.snapshots)
    assert {"system", "turn", "end"} <= {kind for _, kind in drawn}
    text = "\n".join(as_text(found, nugget.tokenizer))
    assert "17 + 25" in text
    assert "Hello!" in text
    circles = list(ElementTree.fromstring(as_svg(found, nugget.tokenizer)).iter(f"{SVG}circle"))
    assert len(circles) == len(drawn) + len({kind for _, kind in drawn})  # and the legend


def marks(found):
    for run in found:
        yield from run.snapshots
        yield from marks(run.next)


def test_the_guides_picture_is_one():
    root = ElementTree.parse(DRAWN).getroot()
    tips = [title.text for title in root.iter(f"{SVG}title")]
    assert any(tip.startswith("system, after") for tip in tips)
    assert any("17 + 25" in tip for tip in tips)


def test_the_command(tmp_path, capsys, nugget, monkeypatch):
    monkeypatch.setattr(ingot, "load", lambda **_: nugget)
    cache_tree.main(["--svg", str(tmp_path / "tree.svg")])
    assert "[system " in capsys.readouterr().out
    ElementTree.parse(tmp_path / "tree.svg")
