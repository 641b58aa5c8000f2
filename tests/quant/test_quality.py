"""Where quantisation fails when it is done carelessly: channels much larger than their neighbours."""

from __future__ import annotations

import numpy as np
import pytest

import ingot
from ingot.engine import Engine
from ingot.loading import nugget_path
from ingot.model import build
from ingot.store import open_checkpoint, tensor_of

native = pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")

CHECKPOINT = open_checkpoint(nugget_path())
TEXT = CHECKPOINT.config.text
QUESTIONS = ("What is 17 + 25?", "Who are you?", "What is 8 + 64?", "Hello!", "What is 90 + 9?")


class PerRow(native.OpSet):
    """Activations rounded to int8 with one scale a row, as the simplest engines do."""

    delta_layer = full_layer = None  # a fused layer would not pass here

    def linears(self, x_TI, *leaves):
        scale = np.abs(x_TI).max(1, keepdims=True) / np.float32(127)
        return super().linears(np.rint(x_TI / scale) * scale, *leaves)


def answers() -> list[np.ndarray]:
    """The nugget's own conversations."""
    model = ingot.load(weights="f32")
    prompts = [model.encode([{"role": "user", "content": q}], thinking=t) for q in QUESTIONS for t in (False, True)]
    return [np.concatenate([p.ids, model.generate(p, max_tokens=48, temperature=0).ids]).astype(int) for p in prompts]


SEQUENCES = answers()


def logits(fmt: str, change=None, ops=None) -> np.ndarray:
    """Logits of all sequences by the nugget in `fmt`, its f32 weights changed first."""
    values = {name: CHECKPOINT.read(name).float32() for name in CHECKPOINT.table}
    if change:
        change(values)
    ops = ops or native.OpSet(threads=2)
    root = build(CHECKPOINT.config, ops, lambda weight: tensor_of(values[weight.name], "F32"), fmt)
    engine = Engine(root, ops, CHECKPOINT.config)
    return np.concatenate([engine.logits(ids) for ids in SEQUENCES])


def divergence(want: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    """Mean KL(want || got) in nats, and the share of positions whose best token is the same."""

    def log_softmax(logits):
        x = logits.astype(np.float64) - logits.max(1, keepdims=True)
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    p, q = log_softmax(want), log_softmax(got)
    return float((np.exp(p) * (p - q)).sum(1).mean()), float((want.argmax(1) == got.argmax(1)).mean())


def layers(values: dict[str, np.ndarray]):
    for i in range(TEXT.num_hidden_layers):
        at = f"{CHECKPOINT.config.prefix}layers.{i}."
        yield {name.removeprefix(at): value for name, value in values.items() if name.startswith(at)}


def rounded_norms(values: dict[str, np.ndarray]) -> None:
    """1 + w to 12 bits, so that 256 (1 + w) - 1 is a float too."""
    for layer in layers(values):
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            layer[name][:] = np.rint((1 + layer[name]) * 4096) / 4096 - 1


def scaled_groups(values: dict[str, np.ndarray]) -> None:
    """Every third aligned group of 32 channels 2^8 larger, and the matrices that read it 2^8 smaller there."""
    rounded_norms(values)
    for layer in layers(values):
        for first in range(0, TEXT.intermediate_size, 96):
            some = slice(first, first + 32)
            layer["mlp.up_proj.weight"][some] *= 256
            layer["mlp.down_proj.weight"][:, some] /= 256
        mixer = [n for n in layer if n.startswith(("self_attn.", "linear_attn.in")) and n.split(".")[1][0] in "qkvi"]
        mixer = [n for n in mixer if layer[n].ndim == 2 and layer[n].shape[1] == TEXT.hidden_size]
        for norm, readers in (
            ("input_layernorm.weight", mixer),
            ("post_attention_layernorm.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"]),
        ):
            for first in range(0, TEXT.hidden_size, 96):
                some = slice(first, first + 32)
                layer[norm][some] = (1 + layer[norm][some]) * 256 - 1
                for name in readers:
                    layer[name][:, some] /= 256


@pytest.mark.parametrize("fmt", ["q8", "q4"])
def test_scaled_groups_change_nothing(fmt):
    plain = logits(fmt, rounded_norms)
    assert np.array_equal(logits(fmt, scaled_groups), plain)


def test_one_scale_a_row_collapses_on_scaled_groups():
    """That the test above can fail: the same weights, the activations rounded by rows."""
    exact = logits("f32", scaled_groups)
    grouped, rows = logits("q8", scaled_groups), logits("q8", scaled_groups, PerRow(threads=2))
    assert divergence(exact, grouped)[1] > 0.98
    assert divergence(exact, rows)[1] < 0.9
    assert divergence(exact, rows)[0] > 50 * divergence(exact, grouped)[0]


def llama_cpp_product(x: np.ndarray, w: np.ndarray, bits: int) -> np.ndarray:
    """x @ w.T as llama.cpp's formats round it: Q4_0 (scale = the largest / -8) or Q8_0 weights, Q8_0 activations, all
    scales in fp16."""

    def q8_0(a):
        groups = a.reshape(len(a), -1, 32).astype(np.float32)
        scale = np.abs(groups).max(2, keepdims=True) / 127
        return (np.rint(groups / scale) * scale.astype(np.float16).astype(np.float64)).reshape(a.shape)

    def q4_0(a):
        groups = a.reshape(len(a), -1, 32).astype(np.float32)
        index = np.abs(groups).argmax(2)[..., None]
        scale = np.take_along_axis(groups, index, 2) / -8
        codes = np.clip(np.floor(groups / scale + 8.5), 0, 15) - 8
        return (codes * scale.astype(np.float16).astype(np.float64)).reshape(a.shape)

    return q8_0(x) @ (q4_0 if bits == 4 else q8_0)(w).T


@pytest.mark.parametrize(("fmt", "bits"), [("q8", 8), ("q4", 4)])
@pytest.mark.parametrize("outliers", [0, 4])
def test_lone_outliers_cost_no_more_than_in_llama_cpp(fmt, bits, outliers):
    """Four channels of the activations at 300 times the rest, in groups of ordinary ones."""
    ops, errors = native.OpSet(threads=2), []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        w, x = rng.normal(size=(256, 1024)).astype(np.float32), rng.normal(size=(64, 1024)).astype(np.float32)
        x[:, rng.choice(1024, outliers, replace=False)] *= 300
        exact = x.astype(np.float64) @ w.T.astype(np.float64)
        ours = ops.matrix(tensor_of(w, "F32"), fmt)(x)
        errors.append([np.sqrt(((y - exact) ** 2).mean()) for y in (ours, llama_cpp_product(x, w, bits))])
    ours, theirs = np.mean(errors, axis=0)
    assert ours <= 1.01 * theirs  # q8: the same rounding but for the scale's own bits
    if bits == 4:
        assert ours < 0.9 * theirs


@pytest.mark.parametrize(("fmt", "most", "agree"), [("bf16", 1e-3, 0.99), ("q8", 5e-3, 0.985), ("q4", 0.1, 0.95)])
def test_divergence_from_f32(fmt, most, agree):
    kl, same = divergence(logits("f32"), logits(fmt))
    assert kl < most
    assert same > agree
