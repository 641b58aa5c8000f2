"""Calibrated rounding: the layout and plain rounding of the kernels, less divergence, prompts from a file, cached."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ingot
from ingot.loading import nugget_path
from ingot.quant.gptq import pack_q4, round_q4
from ingot.store import tensor_of
from tests.quant.test_quality import SEQUENCES, divergence

native = pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")

OPS = native.OpSet(threads=2)


@pytest.mark.parametrize("shape", [(16, 64), (5, 1), (40, 67), (149, 1030)])
def test_without_moments_it_is_the_kernels_rounding(shape):
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    w[0, :32] = 0
    np.testing.assert_array_equal(round_q4(w), OPS.matrix(tensor_of(w, "F32"), "q4").data)


def test_moments_make_the_product_better():
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(96, 96)) * np.exp(rng.normal(size=96))
    x, w = (rng.normal(size=(500, 96)) @ mix).astype(np.float32), rng.normal(size=(64, 96)).astype(np.float32)
    exact = x @ w.T

    def error(data):
        return np.sqrt(((OPS.packed(data, w.shape, "q4")(x) - exact) ** 2).mean())

    assert error(round_q4(w, x.T @ x)) < 0.7 * error(round_q4(w))


def test_inputs_that_are_never_used_or_equal_do_not_break_it():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(100, 64)).astype(np.float32)
    x[:, 5], x[:, 7] = 0, x[:, 8]
    w = rng.normal(size=(16, 64)).astype(np.float32)
    for moments in (x.T @ x, np.zeros((64, 64), np.float32), 1e20 * (x.T @ x)):
        y = OPS.packed(round_q4(w, moments), w.shape, "q4")(x)
        assert np.abs(y - x @ w.T).max() < 8


def test_codes_and_scales_keep_their_places():
    codes = np.random.default_rng(3).integers(0, 16, (20, 70)).astype(np.uint8)
    scales = np.exp2(np.arange(60)).reshape(20, 3).astype(np.float32)
    leaf = OPS.packed(pack_q4(codes, scales), (20, 70), "q4")
    from ingot.quant.gptq import CODEBOOK

    want = CODEBOOK[codes] * np.repeat(scales, 32, axis=1)[:, :70]
    for k in (0, 3, 4, 31, 32, 63, 64, 69):
        x = np.zeros((1, 70), np.float32)
        x[0, k] = 127
        np.testing.assert_allclose(leaf(x)[0], 127 * want[:, k], rtol=1e-6)


@pytest.fixture
def prompts(tmp_path):
    """Sums the nugget was asked and its own answers; none is a question of the comparison."""
    model, lines = ingot.load(weights="f32"), []
    for a in range(10, 34):
        prompt = model.encode([{"role": "user", "content": f"What is {a} + {a * 7 % 90}?"}], thinking=a % 2 == 0)
        answer = model.generate(prompt, max_tokens=60, temperature=0)
        lines.append({"text": prompt.text + answer.text})
    lines.append({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]})
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_calibrated_model_is_closer_and_is_kept(prompts, tmp_path):
    want = np.concatenate([ingot.load(weights="f32").logits(ids) for ids in SEQUENCES])
    cache = tmp_path / "cache"
    plain, first, second = (
        ingot.load(weights="q4"),
        ingot.load(weights="q4", calibration=prompts, cache=cache),
        ingot.load(weights="q4", calibration=prompts, cache=cache),
    )
    uncached = ingot.load(weights="q4", calibration=prompts, cache=False)
    got = [np.concatenate([m.logits(ids) for ids in SEQUENCES]) for m in (plain, first, second, uncached)]
    assert divergence(want, got[1])[0] < 0.8 * divergence(want, got[0])[0]
    assert np.array_equal(got[1], got[2])
    assert np.array_equal(got[1], got[3])
    assert first.cache_file is not None
    assert second.cache_file is None
    other = prompts.with_name("other.jsonl")
    other.write_text('{"text": "Hello!"}')
    assert ingot.load(weights="q4", calibration=other, cache=cache).cache_file is not None


BAD = {
    "not q4": ({"weights": "q8"}, '{"text": "a"}', "only native weights='q4'"),
    "reference": (
        {"weights": None, "backend": "reference"},
        '{"text": "a"}',
        "only native weights='q4'",
    ),
    "empty": ({}, "\n\n", "holds no text to calibrate with"),
    "not JSON": ({}, '{"text": "a"}\n{', "line 2 is not valid JSON"),
    "a list": ({}, "[1]", 'line 1 must be an object with "text" or "messages"'),
    "bad message": ({}, '{"messages": [{"role": "wizard"}]}', "line 1: messages[0].role is 'wizard'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_calibration_is_named(tmp_path, name):
    arguments, text, sentence = BAD[name]
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        ingot.load(nugget_path(), **{"weights": "q4", "calibration": path} | arguments)
    assert sentence in str(error.value)


def test_a_missing_file_and_plain_text(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        ingot.load(weights="q4", calibration=tmp_path / "none.txt")
    plain = tmp_path / "plain.txt"
    plain.write_text("What is 17 + 25? " * 200)
    ingot.load(weights="q4", calibration=plain)
