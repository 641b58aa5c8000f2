"""YaRN: the frequencies and logits of transformers, the longer context, the same bits however they are computed."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ingot
from ingot.model.attention import rope_frequencies
from ingot.spec import official, parse_config
from ingot.spec.config import with_yarn
from tests.api.small_model import write_small_model
from tests.model.small import RAW, small_config
from tests.tolerance import LOGITS_OF_SCALE

ROPE = RAW["rope_parameters"]
VARIANTS = [
    {"factor": 4.0, "original_max_position_embeddings": 64},
    {"factor": 2.5, "original_max_position_embeddings": 300, "beta_fast": 20.0, "beta_slow": 2.0},
    {"factor": 8.0, "original_max_position_embeddings": 100, "attention_factor": 1.3},
    {"factor": 8.0, "original_max_position_embeddings": 100, "mscale": 0.7, "mscale_all_dim": 1.1},
    {"factor": 3.0, "original_max_position_embeddings": 128, "truncate": False},
]


def config(rope, **changes):
    return small_config(rope_parameters=ROPE | {"rope_type": "yarn"} | rope, **changes)


def their_frequencies(rope, text):
    torch = pytest.importorskip("torch")
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    theirs = pytest.importorskip("transformers.models.qwen3_5.configuration_qwen3_5").Qwen3_5TextConfig(
        head_dim=text.head_dim, max_position_embeddings=text.max_position_embeddings, rope_parameters=rope
    )
    inv_freq, factor = rope_utils.ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    return inv_freq.numpy(), factor


@pytest.mark.parametrize("rope", VARIANTS, ids=str)
def test_frequencies_and_factor_are_those_of_transformers(rope):
    text = config(rope).text
    inv_freq, _, scale = rope_frequencies(text)
    want, factor = their_frequencies(ROPE | {"rope_type": "yarn"} | rope, text)
    assert np.abs(inv_freq / want - 1).max() < 3e-7
    assert scale == pytest.approx(factor, rel=1e-15)
    assert not np.array_equal(inv_freq, rope_frequencies(small_config().text)[0])


@pytest.mark.parametrize("size", ["0.8b", "9b"])
def test_the_cards_factor_on_the_official_sizes(size):
    """Four times 262,144, as the model cards say: frequencies to the bit."""
    raw = official(size)
    rope = raw["text_config"]["rope_parameters"] | {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 262_144,
    }
    raw["text_config"]["rope_parameters"] = rope
    stated, asked = parse_config(raw), with_yarn(parse_config(official(size)), 4)
    assert stated == asked
    assert stated.text.context == 1_048_576
    inv_freq, _, scale = rope_frequencies(stated.text)
    want, factor = their_frequencies(rope, stated.text)
    assert np.array_equal(inv_freq, want)
    assert scale == pytest.approx(0.1 * np.log(4) + 1) == factor


@pytest.fixture(scope="module", params=range(3))
def checkpoint(request, tmp_path_factory):
    pytest.importorskip("transformers")
    from tests.model.checkpoints import draw_text_config, reference_model, save_checkpoint

    seed = request.param
    rope = draw_text_config(seed)["rope_parameters"] | {"rope_type": "yarn"} | VARIANTS[seed]
    path = save_checkpoint(tmp_path_factory.mktemp("yarn"), seed, rope_parameters=rope, max_position_embeddings=400)
    return path, reference_model(path, seed)


@pytest.mark.parametrize("backend", ["reference", "torch", "native"])
def test_logits_equal_transformers(checkpoint, backend):
    import torch

    path, model = checkpoint
    m = ingot.load(path, backend=backend)
    for length in (3, 65, 250):
        ids = np.random.default_rng(length).integers(0, m.config.text.vocab_size, length)
        with torch.no_grad():
            want = model(input_ids=torch.from_numpy(ids)[None].long()).logits[0].numpy()
        assert np.abs(m.logits(ids) - want).max() <= LOGITS_OF_SCALE * np.abs(want).max()


def test_the_context_is_longer_exact_and_off_by_default(tmp_path):
    path = write_small_model(tmp_path, max_position_embeddings=90)
    ids = np.random.default_rng(0).integers(0, 200, 89)
    plain, longer = ingot.load(path), ingot.load(path, yarn=2.5)
    assert (plain.engine.context, longer.engine.context) == (90, 225)
    with pytest.raises(ValueError, match="this model's context holds 90"):
        plain.logits(np.tile(ids, 2))
    whole = longer.logits(np.tile(ids, 2))
    assert np.array_equal(longer.logits(np.tile(ids, 2), chunk=1), whole)
    assert not np.array_equal(whole[:89], plain.logits(ids))
    assert len(longer.generate(np.tile(ids, 2), max_tokens=100, ignore_eos=True, seed=1).ids) == 225 - 178


def test_rope_scaling_is_another_spelling():
    rope = {"type": "yarn", "factor": 2.0}
    named = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32_768}
    assert small_config(rope_scaling=rope) == small_config(rope_parameters=ROPE | named)
    assert small_config(rope_scaling=None) == small_config()


BAD = [
    ({"rope_type": "linear", "factor": 2.0}, "rope_type is 'linear'; 'default' and 'yarn' exist here"),
    ({"rope_type": "dynamic"}, "rope_type is 'dynamic'"),
    ({"factor": 2.0}, "factor is given in rope_parameters, but rope_type is 'default'"),
    ({"rope_type": "yarn"}, "factor is missing"),
    ({"rope_type": "yarn", "factor": 0.5}, "factor is 0.5; YaRN's is 1 to 64"),
    ({"rope_type": "yarn", "factor": "4"}, "rope_parameters.factor is '4'; float is needed"),
    ({"rope_type": "yarn", "factor": float("nan")}, "factor is nan"),
    ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}, "original_max_position_embeddings"),
    ({"rope_type": "yarn", "factor": 2.0, "beta_fast": -1.0}, "beta_fast is -1.0; it must be positive"),
    ({"rope_type": "yarn", "factor": 2.0, "truncate": 1}, "truncate is 1; bool is needed"),
    ({"rope_type": "yarn", "factor": 2.0, "short_factor": [1.0]}, "short_factor is not a key"),
]


@pytest.mark.parametrize(("rope", "sentence"), BAD, ids=[b[1] for b in BAD])
def test_what_is_wrong_is_named(rope, sentence):
    with pytest.raises(ValueError) as error:
        small_config(rope_parameters=ROPE | rope)
    assert sentence in str(error.value)


@pytest.mark.parametrize("factor", [1, 0, -2, "4", True, 65, float("nan")])
def test_a_wrong_factor_is_refused(tmp_path, factor):
    with pytest.raises(ValueError, match=r"yarn is .*; it must be a number above 1 and at most 64"):
        with_yarn(small_config(), factor)
    stretched = config(VARIANTS[0])
    with pytest.raises(ValueError, match="the checkpoint's rope_type is 'yarn'"):
        with_yarn(stretched, 2.0)


def test_two_spellings_that_disagree_are_refused():
    raw = json.loads(json.dumps(RAW)) | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 5.0}}
    with pytest.raises(ValueError, match="rope_scaling gives rope_theta, which rope_parameters gives otherwise"):
        parse_config(raw)
