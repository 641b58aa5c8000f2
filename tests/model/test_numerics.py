"""The native op set's bits are those that `NUMERICS` stands for: what was kept on disk is used as if computed now."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ingot.engine import Engine
from ingot.engine.scheduler import Part
from ingot.model import build
from ingot.spec.numerics import NUMERICS
from tests.model import test_vision_exact as vision
from tests.model.small import small_config, weights

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

# weights, keys and values -> the first bytes of SHA-256 over logits, pages and recurrent states
BITS = {
    ("f32", "f32"): "4f79fa070e7df92c",
    ("bf16", "bf16"): "39cb7b1042e7467a",
    ("q8", "q8"): "00b1d59238507993",
    ("q4", "bf16"): "ff207dfa5875be67",
}
TOWER = {
    "f32": "a8e8bb531e5b0541",
    "bf16": "92c857951aa8a2bb",
    "q8": "3e543dc242f98f61",
}  # of the features of a picture
SENTENCE = "the engine gives other bits than before: raise NUMERICS (spec/numerics.py) and write both down here"


@pytest.mark.parametrize(("fmt", "kv"), BITS)
def test_numerics_is_raised_when_bits_change(fmt: str, kv: str) -> None:
    config, ops = small_config(), native.OpSet(threads=1)
    engine = Engine(build(config, ops, weights(), fmt), ops, config, kv=kv)
    sequence, digest = engine.states.open(), hashlib.sha256()
    for ids in np.array_split((np.arange(150) * 7 % 101).astype(np.int32), 4):
        digest.update(engine.forward([Part(sequence, ids)]).tobytes())
    for i, pool in enumerate(engine.states.pools.layers):
        for array in pool:
            rows = array[[sequence.slot]] if i in engine.states.pools.linear else array[sequence.pages[:3]]
            digest.update(np.ascontiguousarray(rows).tobytes())
    assert (NUMERICS, digest.hexdigest()[:16]) == (1, BITS[fmt, kv]), SENTENCE


@pytest.mark.parametrize("fmt", TOWER)
def test_and_when_those_of_pictures_do(fmt: str) -> None:
    ops, grid = native.OpSet(threads=1), (4, 6)
    found = vision.features(ops, vision.tower(ops, fmt), [grid], [vision.patches(grid, 0)])
    digest = hashlib.sha256(found.tobytes()).hexdigest()[:16]
    assert (NUMERICS, digest) == (1, TOWER[fmt]), SENTENCE
