"""Logits and greedy continuations equal to transformers on checkpoints that transformers saved."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import ingot  # noqa: E402
from tests.model.checkpoints import reference_model, save_checkpoint  # noqa: E402
from tests.tolerance import LOGITS_OF_SCALE  # noqa: E402

SEEDS = range(9)
LENGTHS = (1, 2, 3, 5, 63, 64, 65, 130)
BACKENDS = ("reference", "torch", "native")


@pytest.fixture(scope="module", params=SEEDS)
def checkpoint(request, tmp_path_factory):
    seed = request.param
    path = save_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed)
    return seed, path, reference_model(path, seed)


def expected_logits(model, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids)[None].long()).logits[0].numpy()


def draw_ids(model, length: int) -> np.ndarray:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return np.random.default_rng(length).integers(0, vocabulary, length)


def assert_logits(got: np.ndarray, want: np.ndarray) -> None:
    assert np.abs(got - want).max() <= LOGITS_OF_SCALE * np.abs(want).max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_equal_transformers(checkpoint, backend):
    _, path, model = checkpoint
    m = ingot.load(path, backend=backend)
    for length in LENGTHS:
        ids = draw_ids(model, length)
        assert_logits(m.logits(ids), expected_logits(model, ids))


@pytest.mark.parametrize("backend", BACKENDS)
def test_700_tokens_equal_transformers_in_any_chunks(checkpoint, backend):
    _, path, model = checkpoint
    m = ingot.load(path, backend=backend)
    ids = draw_ids(model, 700)
    want = expected_logits(model, ids)
    for chunk in (None, 97):
        assert_logits(m.logits(ids, chunk=chunk), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_continuation_equals_transformers(checkpoint, backend):
    _, path, model = checkpoint
    prompt = draw_ids(model, 17)
    m = ingot.load(path, backend=backend)
    got = m.generate(prompt, max_tokens=24, temperature=0, presence_penalty=0).ids
    with torch.no_grad():
        out = model.generate(torch.from_numpy(prompt)[None].long(), max_new_tokens=24, do_sample=False)
    assert got == out[0, len(prompt) :].tolist()
