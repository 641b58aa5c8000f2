"""The dense members of the family beside Qwen3.5's four: their configurations are read, and they run."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

import ingot
from ingot.spec import official, parse_config, weights_table
from ingot.spec.config import FULL
from ingot.spec.cost import memory, parameters
from ingot.store import write_random_checkpoint
from tests.api.small_model import write_small_model
from tests.prompt.official import TEMPLATES
from tests.store.store_files import config


def test_27b_has_its_published_figures():
    made = parse_config(official("27B"))
    assert sum(kind == FULL for kind in made.text.layer_types) == 16
    assert not made.tie_word_embeddings
    # 3 rows of 10,240 channels and 48 heads of 128 x 128 in fp32 for each of 48 layers: llama.cpp logs 149.62 MiB
    assert memory(made, "q4", 1).state / 2**20 == pytest.approx(149.62, abs=0.01)
    assert parameters(made, "text") / 1e9 == pytest.approx(26.9, abs=0.1)
    assert weights_table(made)["model.visual.merger.linear_fc2.weight"].shape == (5120, 4608)


def newer(raw):
    """The keys that configurations of Qwen3.6 and 3.8 have beside those of Qwen3.5."""
    raw = copy.deepcopy(raw)
    raw["text_config"] |= {"output_gate_type": "swish", "bos_token_id": 3, "pad_token_id": None, "dtype": "bfloat16"}
    return raw | {"language_model_only": False, "dtype": "bfloat16"}


def test_newer_configurations_are_the_same_model(tmp_path):
    """Three value heads a key head, untied, as in 27B."""
    raw = config(tied=False)
    assert parse_config(newer(raw)) == parse_config(raw)
    logits = []
    for name, some in (("old", raw), ("new", newer(raw))):
        write_random_checkpoint(tmp_path / name, some)
        logits.append(ingot.load(tmp_path / name).logits([3, 1, 4, 1, 5]))
    assert np.array_equal(*logits)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"output_gate_type": "sigmoid"}, "output_gate_type is 'sigmoid'; a qwen3_5 decoder has 'silu'"),
        ({"hc_count": 4}, "text_config.hc_count is not a key Ingot knows"),
        ({"num_experts": 512}, "text_config.num_experts is given; mixture-of-experts models are not supported yet"),
    ],
)
def test_other_members_are_told_apart(change, sentence):
    raw = newer(config())
    raw["text_config"] |= change
    with pytest.raises(ValueError, match=sentence):
        parse_config(raw)


def test_a_conversation_under_the_newer_template(tmp_path):
    path = write_small_model(tmp_path / "model")
    (path / "chat_template.jinja").write_text(TEMPLATES["Qwen3.6"])
    (path / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 20, "bos_token_id": 3}))
    model = ingot.load(path)
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "old thoughts"},
        {"role": "user", "content": "c"},
    ]
    assert "old thoughts" not in model.encode(messages).text
    kept = model.encode(messages, preserve_thinking=True)
    assert "<think>\nold thoughts\n</think>\n\nb" in kept.text
    settings = {"max_tokens": 1, "temperature": 0}
    answer = model.chat(messages, chat_template_kwargs={"preserve_thinking": True}, **settings)
    assert answer.usage.prompt_tokens == len(kept.ids) > model.chat(messages, **settings).usage.prompt_tokens
