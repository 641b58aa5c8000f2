"""The comparison tool: silent on equal models, and right about the first tensor, and its cause, on planted faults."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ingot.prompt.media import Preprocessor  # noqa: E402
from ingot.store import open_checkpoint  # noqa: E402
from tests.model.checkpoints import save_checkpoint, save_seeing_checkpoint  # noqa: E402
from tests.tools import faults  # noqa: E402
from tools.compare_layers.__main__ import main, report  # noqa: E402
from tools.compare_layers.asked import with_picture  # noqa: E402
from tools.compare_layers.comparison import compare  # noqa: E402
from tools.compare_layers.diagnosis import diagnose  # noqa: E402
from tools.compare_layers.recording import Recording, open_op_set, run_ingot  # noqa: E402
from tools.compare_layers.transformers_side import run_transformers  # noqa: E402

# Tied and untied, text-only and multimodal, value heads 1, 2 and 3 times the key heads: see save_checkpoint.
SEEDS = (0, 1, 2, 5)
BACKENDS = ("native", "torch", "reference")
IDS = np.random.default_rng(7).integers(0, 90, 70).tolist()
TOLERANCE = 1e-4
# Two key heads, six value heads, two KV heads, six query heads: every regrouping changes something.
HEADS = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 6, "num_key_value_heads": 2, "num_attention_heads": 6,
    "num_hidden_layers": 5, "layer_types": ["linear_attention"] * 3 + ["full_attention", "linear_attention"],
    "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("equal")
    return {seed: save_checkpoint(root / str(seed), seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A checkpoint with grouped heads, and what transformers makes of it."""
    path = save_checkpoint(tmp_path_factory.mktemp("grouped") / "model", 0, **HEADS)
    checkpoint = open_checkpoint(path)
    return checkpoint, run_transformers(checkpoint, IDS)


def judged(ours: Recording, theirs: Recording):
    comparison = compare(ours, theirs, TOLERANCE)
    return comparison, diagnose(comparison, ours, theirs)


# -- equal models


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_equal_models_do_not_part(checkpoints, seed, backend):
    checkpoint = open_checkpoint(checkpoints[seed])
    theirs = run_transformers(checkpoint, IDS)
    for chunk in (None, 9):
        comparison, diagnosis = judged(run_ingot(checkpoint, open_op_set(backend), IDS, chunk), theirs)
        assert comparison.first is None
        assert diagnosis is None
        assert comparison.unseen == [], "every operation of the graph has its counterpart"
        assert comparison.rows[-1].name == "lm_head"
        assert {row.shape[0] for row in comparison.rows} == {len(IDS)}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_picture_does_not_part(tmp_path, seed):
    checkpoint = open_checkpoint(save_seeing_checkpoint(tmp_path / "seeing", seed))
    image = np.random.default_rng(seed).integers(0, 256, (37, 64, 3), dtype=np.uint8)
    picture = Preprocessor.from_directory(checkpoint.path, checkpoint.config.vision).image(image)
    asked = with_picture(IDS[:11], picture, checkpoint.config)
    theirs = run_transformers(checkpoint, asked)
    for backend in BACKENDS:
        for chunk in (None, 9):
            comparison, _ = judged(run_ingot(checkpoint, open_op_set(backend), asked, chunk), theirs)
            assert comparison.first is None
            assert comparison.unseen == []
            rows = {row.name: row.shape[0] for row in comparison.rows}
            assert rows["model.visual.pos_embed"] == np.prod(picture.grid)
            assert rows["model.visual"] == picture.tokens
            assert rows["lm_head"] == len(asked.ids) == 11 + 2 + picture.tokens


def test_names_are_hugging_faces_in_execution_order(checkpoints):
    checkpoint = open_checkpoint(checkpoints[2])  # multimodal
    names = list(run_ingot(checkpoint, open_op_set("reference"), IDS[:3]).values)
    at = "model.language_model.layers.0.linear_attn."
    parts = "in_proj_qkv in_proj_z in_proj_b in_proj_a conv1d q_l2norm k_l2norm log_decay beta delta_rule norm out_proj"
    first = names.index(f"{at}in_proj_qkv")
    assert names[first : first + 12] == [at + part for part in parts.split()]
    assert names[first + 12] == "model.language_model.layers.0.linear_attn"
    attention = next(i for i, kind in enumerate(checkpoint.config.text.layer_types) if kind == "full_attention")
    at = f"model.language_model.layers.{attention}.self_attn."
    parts = "q_proj k_proj v_proj q_norm k_norm q_rope k_rope attention gated o_proj"
    first = names.index(f"{at}q_proj")
    assert names[first : first + 10] == [at + part for part in parts.split()]


def test_recording_changes_no_bit(checkpoints):
    import ingot

    path = checkpoints[1]
    recording = run_ingot(open_checkpoint(path), open_op_set("native"), IDS, 9)
    assert np.array_equal(recording.values["lm_head"], ingot.load(path, backend="native").logits(IDS))


def test_transformers_is_left_as_it_was(checkpoints):
    from transformers.models.qwen3_5 import modeling_qwen3_5

    before = dict(vars(modeling_qwen3_5))
    run_transformers(open_checkpoint(checkpoints[0]), IDS[:2])
    assert all(before[name] is value for name, value in vars(modeling_qwen3_5).items())


# -- faults in the weights

LAYER2, FULL = "model.layers.2", "model.layers.3.self_attn"
MIXER = f"{LAYER2}.linear_attn"
HEADED = ("in_proj_qkv.weight", "in_proj_z.weight", "in_proj_a.weight", "in_proj_b.weight", "conv1d.weight", "A_log")
TILED = [f"{MIXER}.{name}" for name in (*HEADED, "dt_bias", "out_proj.weight")]

WEIGHT_FAULTS = {  # the changed weights, the tensor that parts first, and words of the cause (None: no known one)
    "norm + 1": ([f"{LAYER2}.input_layernorm.weight"], f"{LAYER2}.input_layernorm", "hold the 1 already"),
    "norm - 1": (
        [f"{LAYER2}.post_attention_layernorm.weight"],
        f"{LAYER2}.post_attention_layernorm",
        "have lost a 1",
    ),
    "final norm + 1": (["model.norm.weight"], "model.norm", "hold the 1 already"),
    "head norm + 1": ([f"{FULL}.k_norm.weight"], f"{FULL}.k_norm", "hold the 1 already"),
    "gated norm - 1": ([f"{MIXER}.norm.weight"], f"{MIXER}.norm", "multiplies by 1 + w"),
    "gate before q": ([f"{FULL}.q_proj.weight"], f"{FULL}.q_proj", "gate rows come before"),
    "q then gate": ([f"{FULL}.q_proj.weight"], f"{FULL}.q_proj", "read as all queries, then all gates"),
    "rotary pairs": ([f"{FULL}.k_proj.weight"], f"{FULL}.k_proj", "read as pairs"),
    "reversed taps": ([f"{MIXER}.conv1d.weight"], f"{MIXER}.conv1d", "taps are reversed"),
    "uneven": ([f"{MIXER}.A_log"], f"{MIXER}.log_decay", None),
    "-exp": ([f"{MIXER}.A_log"], f"{MIXER}.log_decay", "-exp(A_log) already"),
    "tiled A_log": ([f"{MIXER}.A_log"], f"{MIXER}.log_decay", "A_log is read as tiled"),
    "bias": ([f"{MIXER}.dt_bias"], f"{MIXER}.log_decay", None),
    "tiled layer": (TILED, f"{MIXER}.in_proj_qkv", "value heads are read as tiled"),
    "tiled z": ([f"{MIXER}.in_proj_z.weight"], f"{MIXER}.in_proj_z", "value heads are read as tiled"),
    "tiled columns": ([f"{MIXER}.out_proj.weight"], f"{MIXER}.out_proj", "its columns are read as tiled"),
    "scaled": ([f"{LAYER2}.mlp.down_proj.weight"], f"{LAYER2}.mlp.down_proj", None),
    "scaled head": (["lm_head.weight"], "lm_head", None),
    "scaled embedding": (["model.embed_tokens.weight"], "model.embed_tokens", None),
}


def change_of(fault: str, name: str, config) -> faults.Change:
    """What the fault does to the weight `name`."""
    if fault.startswith("tiled"):
        return faults.value_heads_tiled(config, name)
    by_name = {
        "gate before q": faults.gate_before_q,
        "q then gate": faults.q_then_gate,
        "rotary pairs": faults.rotary_pairs,
    }
    if fault in by_name:
        return by_name[fault](config)
    by_ending = {
        "+ 1": lambda w: w + 1,
        "- 1": lambda w: w - 1,
        "taps": lambda w: w[..., ::-1],
        "uneven": lambda w: w + np.linspace(0.1, 0.3, w.size),
        "-exp": lambda w: -np.exp(w),
        "bias": lambda w: w + 1,
    }
    return next((change for end, change in by_ending.items() if fault.endswith(end)), lambda w: w * 1.01)


VISION_FAULTS = {
    "model.visual.patch_embed.proj.bias": ("model.visual.patch_embed.proj", "the bias is left out"),
    "model.visual.blocks.1.norm2.bias": ("model.visual.blocks.1.norm2", "the bias is left out"),
    "model.visual.pos_embed.weight": ("model.visual.pos_embed", "rows and columns are exchanged"),
}


@pytest.mark.parametrize("name", VISION_FAULTS)
def test_fault_in_the_tower(tmp_path, name, capsys):
    """A bias lost on the way, a grid read the other way round."""
    original = save_seeing_checkpoint(tmp_path / "seeing", 0)
    side = round(open_checkpoint(original).config.vision.num_position_embeddings ** 0.5)
    turned = lambda w: w.reshape(side, side, -1).swapaxes(0, 1).reshape(w.shape)  # noqa: E731
    change = np.zeros_like if name.endswith("bias") else turned
    damaged = faults.changed_checkpoint(original, tmp_path / "damaged", {name: change})
    for file in original.glob("*preprocessor_config.json"):
        shutil.copy(file, damaged)
    assert main([str(original), "--other", str(damaged), "--image", "70x41", "--tokens", "4"]) == 1
    lines = capsys.readouterr().out.splitlines()
    place, cause = VISION_FAULTS[name]
    assert f"first divergence: {place}" in lines
    assert f"  the two checkpoints hold different values in {name}" in lines
    assert cause in lines[-1]


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_fault_in_a_weight(grouped, tmp_path, fault):
    checkpoint, theirs = grouped
    names, name, cause = WEIGHT_FAULTS[fault]
    changes = {changed: change_of(fault, changed, checkpoint.config) for changed in names}
    damaged = open_checkpoint(faults.changed_checkpoint(checkpoint.path, tmp_path / "damaged", changes))
    comparison, diagnosis = judged(run_ingot(damaged, open_op_set("native"), IDS), theirs)
    assert comparison.first.name == name
    assert cause in diagnosis.cause if cause else diagnosis.cause is None
    here = [w for w in names if w.removesuffix(".weight") == name or name.endswith("log_decay")]
    assert list(diagnosis.weights) == here
    if name != "model.embed_tokens":
        assert diagnosis.definition == "ours", "the kernel is not at fault"


def test_gate_and_up_exchanged(grouped, tmp_path):
    checkpoint, theirs = grouped
    at = f"{LAYER2}.mlp."
    gate, up = (checkpoint.read(f"{at}{n}_proj.weight").float32() for n in ("gate", "up"))
    changes = {f"{at}gate_proj.weight": lambda _: up, f"{at}up_proj.weight": lambda _: gate}
    damaged = open_checkpoint(faults.changed_checkpoint(checkpoint.path, tmp_path / "damaged", changes))
    comparison, diagnosis = judged(run_ingot(damaged, open_op_set("native"), IDS), theirs)
    assert comparison.first.name == f"{at}gate_proj"
    assert "gate_proj and up_proj are exchanged" in diagnosis.cause


def test_undamaged_copy_does_not_part(grouped, tmp_path):
    checkpoint, theirs = grouped
    copy = open_checkpoint(faults.changed_checkpoint(checkpoint.path, tmp_path / "copy", {}))
    assert judged(run_ingot(copy, open_op_set("native"), IDS), theirs)[0].first is None


# -- faults in the operations

OP_FAULTS = {
    "rope": (faults.rope_of_pairs, "model.layers.3.self_attn.q_rope", "rotate in pairs"),
    "gated_delta_rule": (faults.delta_rule_of_tiled_heads, "model.layers.0.linear_attn.delta_rule", "key head h % G"),
    "attention": (faults.attention_unscaled, "model.layers.3.self_attn.attention", "not scaled by E ** -0.5"),
    "causal_conv1d": (faults.conv_that_forgets, "model.layers.0.linear_attn.conv1d", "lost between two passes"),
    "l2_norm": (faults.l2_norm_of_mean, "model.layers.0.linear_attn.q_l2norm", "mean of squares"),
    "rotary": (faults.rotary_from_one, "model.rotary_emb.cos", "positions begin at 1"),
    "rms_norm": (faults.norm_of_plain_weight, "model.layers.0.input_layernorm", "multiplies by w, not 1 + w"),
    "sigmoid_mul": (faults.gate_of_silu, "model.layers.3.self_attn.gated", "silu, not sigmoid"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow")  # keys of norm sqrt(K) blow the state up
@pytest.mark.parametrize("op", OP_FAULTS)
def test_fault_in_an_operation(grouped, op):
    checkpoint, theirs = grouped
    wrong, name, cause = OP_FAULTS[op]
    comparison, diagnosis = judged(run_ingot(checkpoint, faults.op_set_with(**{op: wrong}), IDS, chunk=17), theirs)
    assert comparison.first.name == name
    assert diagnosis.definition == "theirs", "the operation does not do as defined"
    assert diagnosis.cause.startswith("Ingot has what")
    assert cause in diagnosis.cause
    assert diagnosis.weights == ()


def test_no_guess_about_an_unknown_fault(grouped):
    checkpoint, theirs = grouped
    ops = faults.op_set_with(gated_delta_rule=faults.noisy_delta_rule)
    comparison, diagnosis = judged(run_ingot(checkpoint, ops, IDS), theirs)
    assert comparison.first.name == "model.layers.0.linear_attn.delta_rule"
    assert (diagnosis.definition, diagnosis.cause) == ("theirs", None)


def test_first_wrong_token_is_the_first_of_its_pass(grouped):
    checkpoint, theirs = grouped
    ours = run_ingot(checkpoint, faults.op_set_with(causal_conv1d=faults.conv_that_forgets), IDS, chunk=17)
    comparison, diagnosis = judged(ours, theirs)
    assert comparison.first.token == 17
    assert "from token 17 (row 0 of pass 1)" in "\n".join(report(comparison, diagnosis, 17))


# -- numbers


def recording(**values):
    return Recording({name: np.asarray(value, np.float32) for name, value in values.items()})


def test_differences_and_their_scale():
    (row,) = compare(recording(a=[[1, 2], [3, 5]]), recording(a=[[1, 2], [3, 4]]), 0.2).rows
    assert (row.max_abs, row.scale, row.relative, row.token, row.worst) == (1, 4, 0.25, 1, (1, 1))
    assert compare(recording(a=[[0], [1]]), recording(a=[[0], [0]]), 0.5).rows[0].relative == np.inf


def test_tolerance_zero_sees_one_bit():
    a = np.float32([[1.0]])
    assert compare(recording(a=a), recording(a=a), 0).first is None
    assert compare(recording(a=np.nextafter(a, 2)), recording(a=a), 0).first is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_on_one_side_is_a_divergence(bad):
    for a, b in ([[1], [bad]], [[1], [2]]), ([[1], [2]], [[1], [bad]]):
        comparison = compare(recording(a=a), recording(a=b), 0.5)
        assert (comparison.first.token, comparison.first.max_abs) == (1, np.inf)
        json.dumps(comparison.as_json(), allow_nan=False)
    assert compare(recording(a=[[1], [bad]]), recording(a=[[1], [bad]]), 0).first is None


def test_another_size_is_a_divergence():
    comparison = compare(recording(a=[[1, 2]]), recording(a=[[1, 2, 3]]), 1)
    assert comparison.first.other_shape == (1, 3)
    assert "its shape is [1, 2] here and [1, 3]" in "\n".join(
        report(comparison, diagnose(comparison, recording(), recording()))
    )


def test_nothing_in_common_is_an_error():
    with pytest.raises(ValueError, match="no tensor name in common"):
        compare(recording(a=[[1]]), recording(b=[[1]]), 1)


# -- the command


def test_command_on_equal_models(checkpoints, capsys):
    assert main([str(checkpoints[5]), "--tokens", "5"]) == 0
    out, err = capsys.readouterr()
    assert "5 tokens, Ingot (native) against transformers" in out
    assert "no divergence above 0.0001 of scale" in out
    assert err == ""


def test_command_finds_a_fault(grouped, tmp_path, capsys):
    checkpoint, _ = grouped
    changes = {f"{LAYER2}.input_layernorm.weight": lambda w: w + 1}
    damaged = faults.changed_checkpoint(checkpoint.path, tmp_path / "damaged", changes)
    assert main([str(damaged), "--other", str(checkpoint.path), "--ids", "1,2,3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    marked = [line for line in lines if "<-- first divergence" in line]
    assert len(marked) == 1
    assert marked[0].startswith(f"{LAYER2}.input_layernorm ")
    assert f"  the two checkpoints hold different values in {LAYER2}.input_layernorm.weight" in lines
    assert "multiplies by w, not 1 + w" in lines[-1]


def test_command_as_json(grouped, tmp_path, capsys):
    checkpoint, _ = grouped
    damaged = faults.changed_checkpoint(
        checkpoint.path, tmp_path / "damaged", {f"{MIXER}.conv1d.weight": lambda w: w[..., ::-1]}
    )
    arguments = [
        str(damaged),
        "--other",
        str(checkpoint.path),
        "--against",
        "reference",
        "--backend",
        "torch",
        "--json",
    ]
    assert main([*arguments, "--tokens", "9"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["first"] == f"{MIXER}.conv1d"
    assert answer["diagnosis"]["weights"] == [f"{MIXER}.conv1d.weight"]
    assert len(answer["ids"]) == 9
    assert next(row["name"] for row in answer["rows"] if row["diverged"]) == answer["first"]


def test_decode_equals_prefill_to_the_bit(checkpoints):
    assert main([str(checkpoints[1]), "--against", "native", "--chunk", "1", "--tolerance", "0"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "9x9"], "--image is '9x9', but"),
        (["--ids", "1,x"], "--ids is '1,x'; it must be integers"),
        (["--ids", "5,9999"], "token id 9999; this model's ids are 0 to"),
        (["--ids", "-1"], "token id -1; this model's ids are 0 to"),
        (["--tokens", "0"], "--tokens is 0; it must be a positive number"),
        (["--chunk", "0"], "--chunk is 0; it must be a positive number"),
        (["--tolerance", "nan"], "--tolerance is nan; it must be a number from 0 up"),
        (["--other", "/nowhere"], "/nowhere"),
        (["--prompt", "hello"], "tokenizer"),
    ],
)
def test_bad_arguments(checkpoints, capsys, arguments, message):
    assert main([str(checkpoints[0]), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_missing_weight_is_not_replaced_by_random_ones(checkpoints, tmp_path):
    """transformers draws what it does not find: comparing with that would accuse the wrong side."""
    path = faults.changed_checkpoint(checkpoints[2], tmp_path / "bare", {})
    checkpoint = open_checkpoint(path)
    text_only = [(name.replace("model.language_model.", "model."), checkpoint.read(name))
                 for name in checkpoint.table if "visual" not in name]  # fmt: skip
    faults.save_safetensors(path / "model.safetensors", text_only)
    with pytest.raises(ValueError, match="finds no weight 'model"):
        run_transformers(open_checkpoint(path), IDS)
