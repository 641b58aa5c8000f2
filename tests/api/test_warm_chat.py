"""A conversation in Python, warm: the bits of an answer are those of the same prompt read from the start."""

from __future__ import annotations

import numpy as np
import pytest

import ingot
from ingot.encoding import Chat
from ingot.spec.presets import sampling_preset
from tests.api.small_model import write_seeing_model, write_small_model
from tests.prompt.official import TEMPLATES

pytest.importorskip("ingot._native")
SYSTEM = {"role": "system", "content": "you am a system; what is the world? " * 6}
MORE = [{"role": "user", "content": "you"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def m(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    (path / "chat_template.jinja").write_text(TEMPLATES["4B_9B"])
    return ingot.load(write_small_model(path, max_position_embeddings=4096), prefix_cache=64 << 20)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("thinking", [False, True])
def test_warm_turns_have_the_bits_of_cold_ones(m, thinking, keeps):
    """Letters that BPE would merge are said one by one: each echo is put back as it was made."""
    letters = dict.fromkeys(m.tokenizer.encode("w o r l d h e"), 60.0)
    m.engine.cache.clear()
    messages, spliced = [SYSTEM], 0
    kwargs = {"preserve_thinking": keeps}
    for turn in range(4):
        messages.append({"role": "user", "content": f"hello {turn}"})
        options = {"tools": [TOOL], "thinking": thinking, "chat_template_kwargs": kwargs, "logit_bias": letters}
        warm = m.chat(messages, max_tokens=40, seed=turn, logprobs=True, **options)
        usage = warm.usage
        job_ids = m.encode(messages, [TOOL], thinking, **kwargs).ids
        assert turn == 0 or usage.cached_tokens > 0
        # the same tokens, read from the start
        prompt = prompt_of(m, messages, thinking, kwargs)
        spliced += list(prompt.ids) != list(job_ids)
        assert m.tokenizer.decode(prompt.ids) == m.tokenizer.decode(job_ids)
        assert len(prompt.ids) == usage.prompt_tokens
        cold = m.generate(
            prompt, max_tokens=40, seed=turn, logprobs=True, cache_prompt=False, logit_bias=letters, **card(m, thinking)
        )
        assert cold.usage.cached_tokens == 0
        assert cold.ids == warm.ids
        assert [one.logprob for one in cold.logprobs] == [one.logprob for one in warm.logprobs]
        messages.append(warm.message)
    assert spliced >= 2 or thinking  # reasoning that never ends comes back with an end


def prompt_of(m, messages, thinking, kwargs):
    """The prompt that chat made, before the answer to it was remembered: nothing of that is in it."""
    return m.encoder.chat(Chat(messages, [TOOL], thinking, kwargs), salt="")


def card(m, thinking):
    """The values that chat takes where none are given."""
    return sampling_preset(m.config.text, thinking, "general")


def test_the_memory_of_answers_is_the_models(m):
    m.engine.cache.clear()
    answer = m.chat([SYSTEM, {"role": "user", "content": "hello"}], thinking=False, max_tokens=9, seed=5)
    stream = m.chat([SYSTEM, {"role": "user", "content": "world"}], thinking=False, max_tokens=9, seed=6, stream=True)
    streamed = stream.finish()
    for made in (answer, streamed):
        known = m.encoder.answers._recall(made.ids, "")
        assert known is None or list(known) == list(made.ids)
    assert len(m.encoder.answers) >= 2


def test_without_a_cache_nothing_is_remembered(m):
    cold = ingot.load(m.path, prefix_cache=False)
    cold.chat([{"role": "user", "content": "hello"}], max_tokens=4)
    assert len(cold.encoder.answers) == 0


def test_a_default_for_all_calls(tmp_path):
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["0.8B_2B"])
    write_small_model(tmp_path)
    m = ingot.load(tmp_path, chat_template_kwargs={"preserve_thinking": True})
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "a", "reasoning": "because"}] * 2
    assert m.encode(turns[:3]).text.count("because") == 1
    assert m.encode(turns[:3], preserve_thinking=False).text.count("because") == 0
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ValueError, match="no way to keep the reasoning"):
        ingot.load(tmp_path, chat_template_kwargs={"preserve_thinking": True})


def test_marks_of_a_prompt_with_pictures(tmp_path):
    m = ingot.load(write_seeing_model(tmp_path))
    pictures = [np.full((16 + 8 * n, 24, 3), 90 * n, np.uint8) for n in range(2)]
    parts = [{"type": "image", "image": pixels} for pixels in pictures]
    parts.insert(1, {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}})
    parts.append({"type": "text", "text": "world", "prompt_cache_breakpoint": {"mode": "explicit"}})
    prompt = m.encode([{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}, *MORE], thinking=True)
    ids = [int(index) for index in prompt.ids]
    pad, end = (m.tokenizer.token_id(token) for token in ("<|image_pad|>", "<|vision_end|>"))
    before = [(kind, m.tokenizer.decode([i for i in ids[:at] if i != pad])) for at, kind in prompt.marks]
    picture = "<|vision_start|><|vision_end|>"
    opened = "<|im_start|>user\n" + picture
    assert before[:4] == [
        ("media", opened),
        ("breakpoint", opened + "hello"),
        ("media", opened + "hello" + picture),
        ("breakpoint", opened + "hello" + picture + "world"),
    ]
    assert [kind for kind, _ in before[4:]] == ["turn"]
    for (at, kind), visual in zip([one for one in prompt.marks if one[1] == "media"], prompt.visuals, strict=True):
        assert (ids[at - 1], at) == (end, int(visual.rows[-1]) + 2), kind
