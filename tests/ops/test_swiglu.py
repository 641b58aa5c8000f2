"""The native `swiglu` gives the bits of the default body."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ingot.model.decoder import swiglu
from ingot.spec.formats import FORMATS
from tests.ops import native_cases as cases

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)


@pytest.mark.parametrize("isa", native.available_isas())
@pytest.mark.parametrize("fmt", FORMATS)
def test_override_equals_default(isa: str, fmt: str) -> None:
    rng, ops = np.random.default_rng(0), native.OpSet(threads=2, isa=isa)
    gate, up, down = (ops.matrix(cases.weights(rng, *shape), fmt) for shape in ((75, 40), (75, 40), (40, 75)))
    for leaf in (down, lambda x: x @ np.ones((75, 40), np.float32)):
        w = SimpleNamespace(gate_proj=gate, up_proj=up, down_proj=leaf)
        for rows in (1, 3, 20):
            x = 20 * cases.draw(rng, rows, 40)
            assert cases.same_bits([ops.swiglu(w, x)], [swiglu.__wrapped__(ops, w, x)])


def test_a_gate_of_another_shape_or_for_f32_is_refused() -> None:
    ops, rng = native.OpSet(threads=1), np.random.default_rng(1)
    x, y = cases.draw(rng, 3, 40), np.empty((3, 5), np.float32)
    for fmt, gate, message in (
        ("q8", x[:2], r"linears: gate is \(2, 40\)"),
        ("f32", x, "linears: gate is given; f32 weights take none"),
    ):
        leaf = ops.matrix(cases.weights(rng, 5, 40), fmt)
        with pytest.raises(ValueError, match=message):
            ops._context.linears(x, [leaf.native], [y], gate)
