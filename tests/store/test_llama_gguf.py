"""GGUF files that llama.cpp's own converter and quantiser wrote. `pytest -m llama`; INGOT_LLAMA is the directory in
which `bench.llama` has built it (default: where `bench.side_by_side` does)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.prompt import ADDED_TOKENS, Tokenizer
from ingot.store import open_checkpoint, save_safetensors, tensor_of, write_random_checkpoint
from ingot.store.blocks import dequantise
from ingot.store.gguf import GGUFFile
from tests.prompt.official import TEMPLATES
from tests.prompt.small_tokenizer import write_small_tokenizer
from tests.store.store_files import keep_decay
from tests.tolerance import LOGITS_OF_SCALE

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(os.environ.get("INGOT_LLAMA", Path.home() / ".cache/ingot-bench"))
SOURCE = next(iter(sorted(PLACE.glob("llama_cpp_python-*/vendor/llama.cpp"))), PLACE)
QUANTISER = SOURCE / "build/bin/llama-quantize"
pytestmark = [
    pytest.mark.llama,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not QUANTISER.exists(), reason=f"llama.cpp is not built under {PLACE} (INGOT_LLAMA)"),
]
PLAIN = ("f32", "f16", "bf16")
QUANTISED = (
    "q8_0",
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q4_k",
    "q5_k",
    "q6_k",
    "q4_k_m",
)  # the last: as people run it, in several types
MESSAGE = [{"role": "user", "content": "hello world, what is the assistant? ñ 中文 é\n\n 12345 don't"}]


def raw_config(vocabulary: int) -> dict:
    """Rows are multiples of 256, as the K types need; three value heads a key head; no two sizes alike."""
    ids = {token.content: vocabulary - len(ADDED_TOKENS) + i for i, token in enumerate(ADDED_TOKENS)}
    text = {
        "model_type": "qwen3_5_text", "vocab_size": vocabulary + 19, "hidden_size": 512, "intermediate_size": 768,
        "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "layer_types": [*["linear_attention"] * 3, "full_attention", "linear_attention"],
        "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 48,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096, "mtp_num_hidden_layers": 1, "full_attention_interval": 4,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
    }  # fmt: skip
    vision = {
        "model_type": "qwen3_5", "depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 96,
        "out_hidden_size": 512, "patch_size": 8, "num_position_embeddings": 49, "in_channels": 3,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "deepstack_visual_indexes": [],
    }  # fmt: skip
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "text_config": text,
        "vision_config": vision, "tie_word_embeddings": False,
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip


def run(*words) -> None:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The checkpoint under "hf", its GGUFs by their types, and its vision tower in a directory of its own."""
    place = tmp_path_factory.mktemp("llama")
    hf = place / "hf"
    raw = raw_config(write_small_tokenizer(hf))
    write_random_checkpoint(hf, raw, seed=3, vision=True)
    keep_decay(hf, lambda values: torch.exp(torch.tensor(values)).numpy())  # what the converter computes
    (hf / "chat_template.jinja").write_text(TEMPLATES["0.8B_2B"])
    shared = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    shared |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    budget = {"shortest_edge": 65536, "longest_edge": 16777216}
    (hf / "preprocessor_config.json").write_text(json.dumps(shared | {"size": budget}))
    convert = (sys.executable, ROOT / "bench/convert.py", SOURCE, hf)
    (place / "towers").mkdir()
    for kind in PLAIN:
        run(*convert, "--outtype", kind, "--outfile", place / f"{kind}.gguf")
        run(*convert, "--mmproj", "--outtype", kind, "--outfile", place / "towers" / f"mmproj-{kind}.gguf")
    for kind in QUANTISED:
        pure = ["--pure"] if kind != "q4_k_m" else []
        name = {"q4_k": "Q4_K_S", "q5_k": "Q5_K_S"}.get(kind, kind.upper())
        run(QUANTISER, *pure, place / "f32.gguf", place / f"{kind}.gguf", name)
    run(*convert, "--mmproj", "--outtype", "q8_0", "--outfile", place / "towers" / "mmproj-q8_0.gguf")
    return place


def logits(path, **options):
    model = ingot.load(path, cache=False, **options)
    return model.logits(model.encode(MESSAGE).ids)


@pytest.mark.parametrize("weights", ["f32", "bf16", "q8", "q4"])
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_logits_are_the_checkpoints(made, kind, weights):
    want, found = logits(made / "hf", weights=weights), logits(made / f"{kind}.gguf", weights=weights)
    assert np.array_equal(want, found), f"{np.abs(want - found).max() / np.abs(want).max():.1e} of the scale"


def test_the_configuration_is_the_checkpoints(made):
    for kind in (*PLAIN, *QUANTISED):
        found = open_checkpoint(made / f"{kind}.gguf", mmproj=made / "towers" / "mmproj-bf16.gguf")
        assert found.config == open_checkpoint(made / "hf").config
        assert found.has_mtp


@pytest.mark.parametrize("kind", PLAIN)
def test_every_weight_is_the_checkpoints(made, kind):
    hf = open_checkpoint(made / "hf")
    gguf = open_checkpoint(made / f"{kind}.gguf", mmproj=made / "towers" / f"mmproj-{kind}.gguf")
    assert list(gguf.table) == list(hf.table)
    for name, row in hf.table.items():
        want, found = hf.read(name).float32(), gguf.read(name).float32()
        if gguf.info(name).dtype == "F16":
            want = want.astype(np.float16).astype(np.float32)
        assert np.array_equal(1 + found, 1 + want) if row.role == "norm1p" else np.array_equal(found, want), name


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_tensors_are_dequantised_as_gguf_py_does(made, kind):
    sys.path.insert(0, str(SOURCE / "gguf-py"))
    try:
        from gguf import GGMLQuantizationType, quants
    finally:
        del sys.path[0]
    file = GGUFFile(made / f"{kind}.gguf", "qwen35")
    quantised = [name for name in file.names if file.info(name).dtype.startswith("Q")]
    assert len(quantised) > 30
    for name in quantised:
        raw, dtype = file.values(name), file.info(name).dtype
        want = quants.dequantize(np.array(raw), GGMLQuantizationType[dtype])
        assert np.array_equal(dequantise(raw, dtype).view(np.uint32), want.view(np.uint32)), name


@pytest.mark.parametrize("kind", QUANTISED)
def test_logits_of_a_quantised_file_are_those_of_its_dequantised_weights(made, kind, tmp_path):
    """The weights as read go into safetensors in F32; what that gives is given by the file itself."""
    gguf = open_checkpoint(made / f"{kind}.gguf")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((made / "hf" / name).read_bytes())
    tensors = ((name, tensor_of(gguf.read(name).float32(), "F32")) for name in gguf.table)
    save_safetensors(tmp_path / "model.safetensors", tensors)
    for weights in ("f32", "bf16", "q8", "q4"):
        assert np.array_equal(logits(made / f"{kind}.gguf", weights=weights), logits(tmp_path, weights=weights))
    assert np.array_equal(logits(made / f"{kind}.gguf"), logits(tmp_path, weights="q8"))


def largest_error(hf, gguf, component):
    """Of the matrices, the rms of what quantising changed by the rms of the weights; 1.4 for heads in another order."""
    errors = []
    for name, row in hf.table.items():
        if row.component == component and gguf.info(name).dtype.startswith("Q"):
            want = hf.read(name).float32()
            errors.append(float(np.sqrt(np.square(gguf.read(name).float32() - want).sum() / np.square(want).sum())))
    return max(errors)


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_weights_are_near_the_checkpoints(made, kind):
    error = largest_error(open_checkpoint(made / "hf"), open_checkpoint(made / f"{kind}.gguf"), "text")
    print(f"{kind}: {error:.1%} of a matrix at most")
    assert error < (0.12 if "4" in kind else 0.06)


def test_a_quantised_vision_tower_is_near_the_checkpoints(made):
    tower = made / "towers" / "mmproj-q8_0.gguf"
    error = largest_error(open_checkpoint(made / "hf"), open_checkpoint(made / "f32.gguf", mmproj=tower), "vision")
    print(f"mmproj q8_0: {error:.1%} of a matrix at most")
    assert error < 0.01


@pytest.mark.parametrize("kind", PLAIN)
def test_pictures_are_seen_as_by_the_checkpoint(made, kind):
    image = np.random.default_rng(0).integers(0, 256, (190, 270, 3), dtype=np.uint8)
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "hello"}]}]
    found = []
    for path, tower in ((made / "hf", None), (made / "f32.gguf", made / "towers" / f"mmproj-{kind}.gguf")):
        model = ingot.load(path, weights="f32", cache=False, mmproj=tower)
        prompt = model.encode(messages)
        found.append((list(prompt.ids), model.logits(prompt)))
    assert found[0][0] == found[1][0]
    difference = np.abs(found[0][1] - found[1][1]).max() / np.abs(found[0][1]).max()
    print(f"mmproj {kind}: {difference:.1e} of the logits' scale")
    assert difference == 0 if kind != "f16" else difference < LOGITS_OF_SCALE  # bf16 below 2**-14 has no fp16


def test_tokenizer_template_and_ends_are_the_checkpoints(made):
    hf, gguf = (ingot.load(made / name, cache=False) for name in ("hf", "q8_0.gguf"))
    for text in (MESSAGE[0]["content"], "<|im_start|>user\n<think>a</think><tool_call><|fim_prefix|>", "e\u0301 ſ ﬁ"):
        assert gguf.tokenizer.encode(text) == hf.tokenizer.encode(text)
        assert gguf.tokenizer.encode(text, special=False) == hf.tokenizer.encode(text, special=False)
    assert gguf.tokenizer.special_ids == hf.tokenizer.special_ids
    assert gguf.tokenizer.vocab_size == hf.tokenizer.vocab_size == Tokenizer.from_directory(made / "hf").vocab_size
    assert gguf.template.source == hf.template.source
    assert gguf.stop_ids == hf.stop_ids
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    assert gguf.encode(MESSAGE, tools).text == hf.encode(MESSAGE, tools).text
