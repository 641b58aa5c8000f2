"""Every known mistake is recognised when one side makes it; every operation can be computed again from its record."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers")

from ingot.prompt.media import Preprocessor
from ingot.store import open_checkpoint
from tests.model.checkpoints import save_checkpoint, save_seeing_checkpoint
from tools.compare_layers.asked import with_picture
from tools.compare_layers.case import Case
from tools.compare_layers.comparison import compare, distance
from tools.compare_layers.diagnosis import ROUNDING, diagnose
from tools.compare_layers.recording import VISUAL, Recording, open_op_set, run_ingot
from tools.compare_layers.traps import TRAPS, traps_of
from tools.compare_layers.vision_traps import VISION_TRAPS

IDS = np.random.default_rng(3).integers(0, 90, 40).tolist()
ROPE = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5, "mrope_section": [2, 2, 2]}
SIZES = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 6, "num_key_value_heads": 2, "num_attention_heads": 6,
    "head_dim": 24, "rope_parameters": ROPE, "tie_word_embeddings": False,
}  # fmt: skip
ALL = [("ours", key, trap) for key, traps in TRAPS.items() for trap in traps]
ALL += [("seeing", key, trap) for key, traps in VISION_TRAPS.items() for trap in traps]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = save_checkpoint(tmp_path_factory.mktemp("model"), 0, **SIZES)
    return run_ingot(open_checkpoint(path), open_op_set("native"), IDS, chunk=9)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A run over a picture of unequal sides among words."""
    path = save_seeing_checkpoint(tmp_path_factory.mktemp("seeing"), 1)
    checkpoint = open_checkpoint(path)
    image = np.random.default_rng(5).integers(0, 256, (37, 64, 3), dtype=np.uint8)
    picture = Preprocessor.from_directory(path, checkpoint.config.vision).image(image)
    return run_ingot(checkpoint, open_op_set("native"), with_picture(IDS[:9], picture, checkpoint.config), chunk=7)


def test_definitions_reproduce_what_is_seen(seeing):
    assert {call.op for name, call in seeing.calls.items() if name.startswith(VISUAL)} == {
        "linears", "rope", "rotary", "attention", "layer_norm", "gelu", "resample_grid",
    }  # fmt: skip
    for name, call in seeing.calls.items():
        assert distance(Case(name, call, seeing).definition(), seeing.values[name]) <= ROUNDING, name


def test_definitions_reproduce_the_run(ours):
    assert {call.op for call in ours.calls.values()} >= {"linears", "rope", "rotary", "attention", "gated_delta_rule"}
    for name, call in ours.calls.items():
        assert distance(Case(name, call, ours).definition(), ours.values[name]) <= ROUNDING, name


@pytest.mark.parametrize(("run", "key", "trap"), ALL, ids=[f"{run} {key}: {trap.when[:40]}" for run, key, trap in ALL])
def test_mistake_is_recognised(run, key, trap, request):
    """The other side is Ingot's own run with the mistake in the first tensor that it changes."""
    ours = request.getfixturevalue(run)
    for name, call in ours.calls.items():
        case = Case(name, call, ours)
        if trap not in traps_of(case):
            continue
        value = trap.compute(case)
        if value is None or distance(value, case.y) < 1.5e-4:
            continue
        theirs = Recording(ours.values | {name: value})
        comparison = compare(ours, theirs, 1e-4)
        assert comparison.first.name == name
        diagnosis = diagnose(comparison, ours, theirs)
        assert diagnosis.definition == "ours"
        assert diagnosis.cause == f"the other side has what Ingot's inputs give when {trap.when}"
        return
    pytest.fail("the mistake changes no tensor of this model")
