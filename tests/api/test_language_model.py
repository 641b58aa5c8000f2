"""The public API on a small checkpoint: encode, logits, generate, chat, streaming, stopping."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ingot
from ingot.answer import Prompt
from ingot.options import Options
from tests.api.small_model import write_small_model

MESSAGES = [{"role": "user", "content": "hello world, what am I?"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def m(path):
    return ingot.load(path)


def test_encode_gives_ids_and_equal_text_positions(m):
    p = m.encode("hello world")
    assert m.tokenizer.decode(p.ids) == "hello world"
    assert p.positions.dtype == np.int32
    assert p.positions.tolist() == [list(range(len(p.ids)))] * 3


def test_encode_renders_messages(m):
    text = m.encode(MESSAGES, thinking=True).text
    assert text.endswith("<|im_start|>assistant\n<think>\n")
    assert not m.encode(MESSAGES, add_generation_prompt=False).text.endswith("assistant\n")


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_logits_are_the_same_bits_for_every_chunk(m, chunk):
    p = m.encode("the user is the assistant")
    assert np.array_equal(m.logits(p, chunk=chunk), m.logits(p.ids))
    assert m.logits(p).shape == (len(p.ids), m.config.text.vocab_size)


def test_generate_takes_text_ids_and_prompts_alike(m):
    p = m.encode("hello")
    outs = [m.generate(x, max_tokens=9, temperature=0).ids for x in ("hello", p.ids, np.array(p.ids), p)]
    assert all(ids == outs[0] for ids in outs)


def test_generate_text_is_the_decoded_ids(m):
    out = m.generate("hello", max_tokens=40, seed=3)
    assert out.text == m.tokenizer.decode([i for i in out.ids if i not in m.stop_ids], skip_special=True)
    assert out.usage.completion_tokens == len(out.ids)
    assert out.usage.prompt_tokens == 1
    assert out.finish_reason in ("stop", "length")


def test_padding_ids_are_never_generated(path):
    m = ingot.load(path)
    assert m.engine.vocabulary == m.tokenizer.vocab_size == m.config.text.vocab_size - 5
    out = m.generate("hello", max_tokens=400, temperature=50, presence_penalty=0, top_k=0)
    assert max(out.ids) < m.tokenizer.vocab_size


def test_streamed_equals_whole(m):
    whole = m.generate("hello", max_tokens=60, seed=11)
    stream = m.generate("hello", max_tokens=60, seed=11, stream=True)
    assert "".join(stream) == whole.text
    assert stream.completion.ids == whole.ids
    assert stream.completion.finish_reason == whole.finish_reason


def test_stop_string_ends_the_text_before_it_wherever_tokens_cut(m):
    free = m.generate("hello", max_tokens=60, seed=11).text
    for begin in range(0, len(free) - 3, 5):
        stop = free[begin : begin + 3]
        out = m.generate("hello", max_tokens=60, seed=11, stop=[stop, "never this one"])
        assert out.text == free[: free.index(stop)]
        assert out.finish_reason == "stop"


def test_stop_token_id_ends_the_answer(m):
    free = m.generate("hello", max_tokens=30, seed=2).ids
    out = m.generate("hello", max_tokens=30, seed=2, stop_token_ids=[free[5]])
    assert out.ids == free[: free.index(free[5]) + 1]
    assert out.finish_reason == "stop"


def test_both_control_tokens_stop_by_default(m):
    assert {m.tokenizer.token_id("<|im_end|>"), m.tokenizer.token_id("<|endoftext|>")} <= m.stop_ids


def test_stopping_early_frees_the_state(m):
    for _ in range(3):
        stream = m.generate("hello", max_tokens=50, stream=True, seed=1)
        next(stream)
        stream.close()
        assert stream.completion.finish_reason is None
    assert m.engine.states._slots.taken == m.engine.states.snapshots


def test_interrupt_frees_the_state_and_the_model_goes_on(m, monkeypatch):
    root, calls = m.engine.root, []

    class Interrupted:
        def __call__(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return root(*args, **kwargs)

    before = m.generate("hello", max_tokens=8, temperature=0).ids
    monkeypatch.setattr(m.engine, "root", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        m.generate("hello", max_tokens=8, temperature=0)
    monkeypatch.setattr(m.engine, "root", root)
    assert m.generate("hello", max_tokens=8, temperature=0).ids == before
    assert m.engine.states._slots.taken == m.engine.states.snapshots


def test_chat_streams_what_it_returns(m):
    for thinking in (False, True):
        whole = m.chat(MESSAGES, thinking=thinking, max_tokens=50, seed=4)
        stream = m.chat(MESSAGES, thinking=thinking, max_tokens=50, seed=4, stream=True)
        deltas = list(stream)
        assert "".join(d.content for d in deltas) == whole.content == stream.completion.content
        assert "".join(d.reasoning for d in deltas) == (whole.reasoning or "")
        assert stream.completion.ids == whole.ids
        assert whole.message["role"] == "assistant"
    assert whole.usage.reasoning_tokens > 0


def test_context_ends_the_answer(tmp_path):
    m = ingot.load(write_small_model(tmp_path, max_position_embeddings=20))
    m.stop_ids = frozenset()
    out = m.generate([1, 2, 3], max_tokens=100, temperature=0)
    assert len(out.ids) == 17
    assert out.finish_reason == "length"


def test_sampling_defaults_come_from_generation_config_then_the_card(path, m, tmp_path):
    text, config = m.config.text, {"temperature": 0.3, "top_k": 7, "max_length": 20}
    assert Options(9).params(text, {}, False).presence_penalty == 2.0  # a small model's card
    assert Options(9).params(text, {}, True).top_p == 0.95
    assert Options(9, sampling={"top_k": 9}).params(text, config, True).top_k == 9
    assert Options(9).params(text, config, True).temperature == 0.3
    assert Options(9).params(text, config, True).presence_penalty == 0
    assert Options(9).params(text, {"do_sample": False, "temperature": 0.6}, False).temperature == 0
    coding = Options(9, preset="coding", sampling={"top_k": 9}).params(text, config, True)
    assert (coding.temperature, coding.top_k, coding.top_p) == (
        0.6,
        9,
        0.95,
    )  # asked for, so it wins


def test_eos_ids_of_the_checkpoint_stop_too(tmp_path):
    path = write_small_model(tmp_path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [65, 66]}))
    assert {65, 66} <= ingot.load(path).stop_ids


def test_a_checkpoint_without_tokenizer_takes_ids(tmp_path):
    path = write_small_model(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (path / file).unlink()
    m = ingot.load(path)
    out = m.generate([5, 6], max_tokens=4, temperature=0)
    assert len(out.ids) == 4
    assert out.text == ""
    with pytest.raises(ValueError, match="holds no tokenizer"):
        m.generate("hello")


BAD_CALLS = [
    ("empty ids", lambda m: m.logits([]), "ids has shape (0,); one dimension with at least one token"),
    ("empty text", lambda m: m.generate(""), "ids has shape (0,)"),
    ("two dimensions", lambda m: m.logits([[1, 2]]), "ids has shape (1, 2)"),
    ("float ids", lambda m: m.logits([1.5]), "token ids are integers"),
    ("text ids", lambda m: m.logits(["a"]), "token ids are integers"),
    ("negative id", lambda m: m.logits([1, -1]), "ids holds -1"),
    ("id too large", lambda m: m.logits([10**6]), "ids holds 1000000"),
    ("huge id", lambda m: m.logits([2**40]), "ids holds 1099511627776"),
    ("chunk 0", lambda m: m.logits([1], chunk=0), "chunk is 0"),
    ("chunk text", lambda m: m.logits([1], chunk="all"), "chunk is 'all'"),
    ("max_tokens negative", lambda m: m.generate("hello", max_tokens=-1), "max_tokens is -1"),
    ("max_tokens 0", lambda m: m.generate("hello", max_tokens=0), "max_tokens is 0"),
    ("max_tokens float", lambda m: m.generate("hello", max_tokens=2.5), "max_tokens is 2.5"),
    ("prompt fills context", lambda m: m.generate([1] * 32_768), "the prompt has 32,768 tokens; this model's context"),
    ("prompt too long", lambda m: m.generate([1] * 40_000), "the prompt has 40,000 tokens; this model's context"),
    ("logits too long", lambda m: m.logits([1] * 40_000), "the prompt has 40,000 tokens"),
    ("empty stop", lambda m: m.generate("hello", stop=""), "stop holds ''"),
    ("stop not text", lambda m: m.generate("hello", stop=[3]), "stop holds 3"),
    ("stop a number", lambda m: m.generate("hello", stop=3), "stop is 3"),
    ("too many stops", lambda m: m.generate("hello", stop=["x"] * 99), "stop has 99 strings"),
    ("stop id text", lambda m: m.generate("hello", stop_token_ids=["x"]), "stop_token_ids holds 'x'"),
    ("unknown parameter", lambda m: m.generate("hello", temprature=1), "temprature is not a parameter"),
    ("temperature", lambda m: m.generate("hello", temperature=-1), "temperature is -1"),
    ("no messages", lambda m: m.chat([]), "message"),
    ("unknown role", lambda m: m.chat([{"role": "wizard", "content": "x"}]), "wizard"),
    ("thinking text", lambda m: m.chat(MESSAGES, thinking="yes"), "thinking is 'yes'"),
    ("prompt None", lambda m: m.generate(None), "prompt is NoneType"),
    ("prompt bytes", lambda m: m.generate(b"hello"), "prompt is bytes"),
]


@pytest.mark.parametrize(("call", "sentence"), [c[1:] for c in BAD_CALLS], ids=[c[0] for c in BAD_CALLS])
def test_bad_call_says_what_was_given_and_what_is_allowed(m, call, sentence):
    with pytest.raises(ValueError) as error:
        call(m)
    assert sentence in str(error.value)
    assert m.engine.states._slots.taken == m.engine.states.snapshots


BAD_LOADS = [
    ({"backend": "cuda"}, "backend is 'cuda'"),
    ({"weights": "q5"}, "weights is 'q5'"),
    ({"kv": "fp8"}, "kv is 'fp8'"),
    ({"threads": 0}, "threads is 0"),
    ({"threads": 2.5}, "threads is 2.5"),
    ({"threads": True}, "threads is True"),
    ({"device": "cuda"}, "device is 'cuda', which only backend='torch' has"),
    ({"backend": "reference", "threads": 2}, "threads is 2; the reference backend"),
    ({"backend": "reference", "weights": "bf16"}, "fmt is 'bf16'"),
    ({"backend": "torch", "device": "nonsense"}, "device is 'nonsense'"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD_LOADS, ids=[str(b[0]) for b in BAD_LOADS])
def test_bad_load_argument_is_named(path, arguments, sentence):
    if arguments.get("backend") == "torch":
        pytest.importorskip("torch")
    with pytest.raises(ValueError) as error:
        ingot.load(path, **arguments)
    assert sentence in str(error.value)


def test_prompt_object_keeps_its_positions(m):
    shifted = Prompt([5, 6, 7], np.tile(np.array([0, 4, 9], np.int32), (3, 1)))
    assert not np.array_equal(m.logits(shifted), m.logits([5, 6, 7]))
