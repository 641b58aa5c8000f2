"""From a GGUF file to answers: the same as from the checkpoint it was made of."""

from __future__ import annotations

import numpy as np
import pytest

import ingot
from ingot.prompt import ADDED_TOKENS
from ingot.prompt.gguf import tokenizer_from_gguf
from ingot.store import open_checkpoint, write_random_checkpoint
from tests.prompt.official import TEMPLATES
from tests.prompt.small_tokenizer import small_vocab, write_small_tokenizer
from tests.store import gguf_files as files
from tests.store.store_files import config, keep_decay
from tests.tolerance import DECAY_OF_SCALE, OP_SETS_OF_SCALE

MESSAGES = [{"role": "user", "content": "hello world, what is é 中文 12?"}]
TEXTS = [
    "hello world",
    "<|im_start|>user\n<think>don't</think>",
    "e\u0301\u0302 ñ 中文",
    "  \n\n a  b",
    "<|fim_prefix|>",
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A checkpoint with tokenizer, template and vision tower, and the GGUFs of it."""
    place = tmp_path_factory.mktemp("pair")
    vocabulary = write_small_tokenizer(place / "hf")
    raw = config(False, vocab_size=vocabulary + 7, rms_norm_eps=1e-5)
    first = len(small_vocab())
    ids = {token.content: first + number for number, token in enumerate(ADDED_TOKENS)}
    raw |= {"image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"]}
    raw |= {"vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"]}
    checkpoint = write_random_checkpoint(place / "hf", raw, vision=True)
    keep_decay(checkpoint)
    (checkpoint / "chat_template.jinja").write_text(TEMPLATES["4B_9B"])
    metadata = files.text_metadata(raw["text_config"]) | {"tokenizer.chat_template": TEMPLATES["4B_9B"]}
    metadata |= {"general.sampling.temp": 0.7, "general.sampling.top_k": 20}
    (place / "gguf").mkdir()
    (place / "gguf" / "model.gguf").write_bytes(files.gguf(metadata, files.text_tensors(checkpoint, raw)))
    tower = files.vision_metadata(raw["vision_config"]), files.vision_tensors(checkpoint)
    (place / "gguf" / "mmproj-model.gguf").write_bytes(files.gguf(*tower))
    return checkpoint, place / "gguf" / "model.gguf"


def both(pair, **options):
    return [ingot.load(path, cache=False, **options) for path in pair]


def test_the_configuration_is_the_checkpoints(pair):
    hf, gguf = map(open_checkpoint, pair)
    assert gguf.config == hf.config


@pytest.mark.parametrize("weights", [None, "f32", "q8", "q4"])
def test_logits_are_the_checkpoints(pair, weights):
    pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")
    hf, gguf = both(pair, weights=weights)
    prompt = hf.encode(MESSAGES)
    assert list(prompt.ids) == list(gguf.encode(MESSAGES).ids)
    assert np.array_equal(hf.logits(prompt), gguf.logits(prompt))


def test_a_decay_that_exp_rounded_moves_logits_by_that_rounding(pair, tmp_path):
    raw = config(num_hidden_layers=5, layer_types=["linear_attention"] * 5)
    del raw["vision_config"]
    checkpoint = write_random_checkpoint(tmp_path / "hf", raw, dtype="f32")
    path = tmp_path / "m.gguf"
    tensors = files.text_tensors(checkpoint, raw, files.F32)
    path.write_bytes(files.gguf(files.text_metadata(raw["text_config"], False), tensors))
    want, found = (ingot.load(where, backend="reference").logits(range(60)) for where in (checkpoint, path))
    assert 0 < np.abs(found - want).max() <= DECAY_OF_SCALE * np.abs(want).max()


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_every_op_set_reads_it(pair, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    hf, gguf = both(pair, backend=backend)
    assert np.array_equal(hf.logits([5, 9, 2, 40]), gguf.logits([5, 9, 2, 40]))


def test_pictures_are_seen_as_by_the_checkpoint(pair):
    hf, gguf = both(pair, backend="reference")
    image = np.random.default_rng(0).integers(0, 256, (300, 270, 3), dtype=np.uint8)
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "hello"}]}]
    prompts = [model.encode(messages) for model in (hf, gguf)]
    assert list(prompts[0].ids) == list(prompts[1].ids)
    assert np.array_equal(hf.logits(prompts[0]), gguf.logits(prompts[1]))


def test_words_and_ends_are_the_checkpoints(pair):
    hf, gguf = both(pair, backend="reference")
    for text in TEXTS:
        for special in (True, False):
            assert gguf.tokenizer.encode(text, special) == hf.tokenizer.encode(text, special)
    assert gguf.tokenizer.special_ids == hf.tokenizer.special_ids
    assert gguf.tokenizer.vocab_size == hf.tokenizer.vocab_size
    assert gguf.stop_ids == hf.stop_ids
    assert gguf.encode(MESSAGES).text == hf.encode(MESSAGES).text
    assert gguf.encode(MESSAGES, thinking=False).text == hf.encode(MESSAGES, thinking=False).text
    assert gguf.generation_config == {"temperature": 0.7, "top_k": 20, "eos_token_id": [len(small_vocab()) + 2]}


def test_quantised_files_take_q8_unless_told(pair, tmp_path):
    pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")
    raw = config(True, hidden_size=64, intermediate_size=96, linear_value_head_dim=32, mtp_num_hidden_layers=0)
    del raw["vision_config"]
    checkpoint = write_random_checkpoint(tmp_path / "hf", raw)
    tensors, plain = files.text_tensors(checkpoint, raw), files.text_tensors(checkpoint, raw, files.F32)
    for number, (name, (kind, shape, _)) in enumerate(tensors.items()):
        if kind == files.BF16:
            quantised = (files.Q4_0, files.Q8_0)[number % 2]
            content = files.blocks(shape, quantised, seed=number)
            tensors[name] = quantised, shape, content
            plain[name] = files.stored(values_of(content, quantised, shape), files.F32)
    metadata = files.text_metadata(raw["text_config"], tokenizer=False)
    (tmp_path / "quantised.gguf").write_bytes(files.gguf(metadata, tensors))
    (tmp_path / "plain.gguf").write_bytes(files.gguf(metadata, plain))
    ids = [5, 9, 2, 40, 96]
    for weights in (None, "f32", "q8", "q4", "bf16"):
        found = ingot.load(tmp_path / "quantised.gguf", weights=weights, cache=tmp_path / "cache").logits(ids)
        want = ingot.load(tmp_path / "plain.gguf", weights=weights or "q8", cache=False).logits(ids)
        assert np.array_equal(found, want)
    again = ingot.load(tmp_path / "quantised.gguf", cache=tmp_path / "cache")
    assert again.cache_file is None  # what the first start packed is mapped
    assert np.array_equal(again.logits(ids), ingot.load(tmp_path / "plain.gguf", weights="q8", cache=False).logits(ids))


def test_other_op_sets_widen_quantised_files(tmp_path):
    raw = config(False, hidden_size=64, intermediate_size=96, linear_value_head_dim=32, mtp_num_hidden_layers=0)
    del raw["vision_config"]
    checkpoint = write_random_checkpoint(tmp_path / "hf", raw)
    tensors = {
        name: (files.Q8_0, shape, files.blocks(shape, files.Q8_0, seed=number)) if kind == files.BF16 else content
        for number, (name, content) in enumerate(files.text_tensors(checkpoint, raw).items())
        for kind, shape, _ in [content]
    }
    path = tmp_path / "m.gguf"
    path.write_bytes(files.gguf(files.text_metadata(raw["text_config"], tokenizer=False), tensors))
    want = ingot.load(path, backend="reference").logits([5, 9, 2])
    pytest.importorskip("torch")
    found = ingot.load(path, backend="torch").logits([5, 9, 2])
    assert np.abs(found - want).max() <= OP_SETS_OF_SCALE * np.abs(want).max()


def values_of(content, kind, shape):
    """Q4_0 and Q8_0 by their formulas."""
    raw = np.frombuffer(content, np.uint8).reshape(-1, files.BLOCK[kind][1])
    scale = raw[:, :2].copy().view("<f2").astype(np.float32)
    if kind == files.Q8_0:
        return (scale * raw[:, 2:].view(np.int8)).reshape(shape)
    q = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(np.float32) - 8
    return (scale * q).reshape(shape)


def test_the_cache_keeps_the_tokenizer_and_knows_another_file(pair, tmp_path):
    pytest.importorskip("ingot.ops.native", reason="the native kernels are not built")
    path = tmp_path / "model.gguf"
    path.write_bytes(pair[1].read_bytes())
    cache = tmp_path / "cache"
    first = ingot.load(path, cache=cache)
    assert sorted(f.name.rsplit("-", 1)[0] for f in cache.iterdir()) == ["model.gguf-bf16", "model.gguf-tokenizer"]
    second = ingot.load(path, cache=cache)
    assert first.cache_file is not None
    assert second.cache_file is None
    for text in TEXTS:
        assert second.tokenizer.encode(text) == first.tokenizer.encode(text)
    assert np.array_equal(second.logits([3, 5, 8]), first.logits([3, 5, 8]))
    whole = bytearray(path.read_bytes())
    whole[-2000:] = bytes(2000)  # another end of the last tensors
    path.write_bytes(whole)
    assert ingot.load(path, cache=cache).cache_file is not None


def tokens(**changes):
    found = files.tokenizer_metadata(400) | {f"tokenizer.{key}": value for key, value in changes.items()}
    found = {key: np.array(value) if key.endswith("token_type") and value else value for key, value in found.items()}
    return {key: value for key, value in found.items() if value is not None}


KINDS = tokens()["tokenizer.ggml.token_type"]
TOKENS = tokens()["tokenizer.ggml.tokens"]
BASE = len(small_vocab())
WRONG = [
    ({"ggml.model": "llama"}, "tokenizer.ggml.model is 'llama'; the tokenizer of Qwen3.5 has 'gpt2', and another cuts"),
    ({"ggml.pre": "qwen2"}, "tokenizer.ggml.pre is 'qwen2'; the tokenizer of Qwen3.5 has 'qwen35'"),
    ({"ggml.pre": None}, "tokenizer.ggml.pre is None"),
    ({"ggml.add_bos_token": True}, "tokenizer.ggml.add_bos_token is true; a text of Qwen3.5 has nothing added"),
    ({"ggml.tokens": None}, "tokenizer.ggml.tokens is missing or no array"),
    ({"ggml.tokens": "abc"}, "tokenizer.ggml.tokens is missing or no array"),
    ({"ggml.tokens": np.arange(400)}, "tokenizer.ggml.tokens is an array of numbers; texts are needed"),
    ({"ggml.token_type": None}, "tokenizer.ggml.token_type is missing or no array of numbers"),
    ({"ggml.token_type": [1, 3]}, "tokenizer.ggml.token_type has 2 entries, tokenizer.ggml.tokens 400"),
    ({"ggml.token_type": [6, *KINDS[1:]]}, "token '!' has the type 6; a byte-level BPE has none such"),
    ({"ggml.token_type": [3, *KINDS[1:]]}, "mixes ordinary and added tokens; the ordinary ones come first"),
    ({"ggml.tokens": [TOKENS[1], *TOKENS[1:]]}, "tokenizer.ggml.tokens has 1 tokens twice"),
    ({"ggml.tokens": [*TOKENS[:BASE], "!", *TOKENS[BASE + 1 :]]}, f"token '!' is {BASE}, and an ordinary token too"),
    (
        {"ggml.tokens": ["no byte", *TOKENS[1:]]},
        "is not a byte-level BPE tokenizer (1 of the 256 byte tokens are missing)",
    ),
    ({"ggml.merges": ["a b c"]}, "tokenizer.ggml.merges[0] is 'a b c'; two tokens with one space are needed"),
    ({"ggml.merges": ["q q"]}, "tokenizer.ggml.tokens and tokenizer.ggml.merges do not fit together"),
    ({"ggml.merges": None}, "tokenizer.ggml.merges is missing or no array"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG, ids=[sentence[:40] for _, sentence in WRONG])
def test_a_tokenizer_of_another_kind_is_refused(changes, sentence):
    with pytest.raises(ValueError) as caught:
        tokenizer_from_gguf(tokens(**changes), "m.gguf")
    assert str(caught.value).startswith("m.gguf")
    assert sentence in str(caught.value)


def test_a_file_without_a_tokenizer_takes_ids(pair, tmp_path):
    raw = config()
    checkpoint = write_random_checkpoint(tmp_path / "hf", raw)
    path = tmp_path / "m.gguf"
    path.write_bytes(files.gguf(files.text_metadata(raw["text_config"], False), files.text_tensors(checkpoint, raw)))
    model = ingot.load(path, backend="reference")
    assert model.logits([1, 2]).shape == (2, 97)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        model.encode("hello")
