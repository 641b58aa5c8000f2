"""Every known mistake is recognised when one side makes it; every operation can be computed again from its record."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers")

from ingot.store import open_checkpoint
from tests.model.checkpoints import save_checkpoint
from tools.compare_layers.case import Case
from tools.compare_layers.comparison import compare, distance
from tools.compare_layers.diagnosis import ROUNDING, diagnose
from tools.compare_layers.recording import Recording, open_op_set, run_ingot
from tools.compare_layers.traps import TRAPS, traps_of

IDS = np.random.default_rng(3).integers(0, 90, 40).tolist()
ROPE = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5, "mrope_section": [2, 2, 2]}
SIZES = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 6, "num_key_value_heads": 2, "num_attention_heads": 6,
    "head_dim": 24, "rope_parameters": ROPE, "tie_word_embeddings": False,
}  # fmt: skip
ALL = [(key, trap) for key, traps in TRAPS.items() for trap in traps]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = save_checkpoint(tmp_path_factory.mktemp("model"), 0, **SIZES)
    return run_ingot(open_checkpoint(path), open_op_set("native"), IDS, chunk=9)


def test_definitions_reproduce_the_run(ours):
    assert {call.op for call in ours.calls.values()} >= {"linears", "rope", "rotary", "attention", "gated_delta_rule"}
    for name, call in ours.calls.items():
        assert distance(Case(name, call, ours).definition(), ours.values[name]) <= ROUNDING, name


@pytest.mark.parametrize(("key", "trap"), ALL, ids=[f"{key}: {trap.when[:40]}" for key, trap in ALL])
def test_mistake_is_recognised(ours, key, trap):
    """The other side is Ingot's own run with the mistake in the first tensor that it changes."""
    for name, call in ours.calls.items():
        case = Case(name, call, ours)
        if trap not in traps_of(case):
            continue
        value = trap.compute(case)
        if value is None or distance(value, case.y) < 1e-3:
            continue
        theirs = Recording(ours.values | {name: value})
        comparison = compare(ours, theirs, 1e-4)
        assert comparison.first.name == name
        diagnosis = diagnose(comparison, ours, theirs)
        assert diagnosis.definition == "ours"
        assert diagnosis.cause == f"the other side has what Ingot's inputs give when {trap.when}"
        return
    pytest.fail("the mistake changes no tensor of this model")
