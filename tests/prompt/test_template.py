"""Rendered prompts: equal to transformers' under the official templates; our own template; finding templates."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ingot.prompt import ChatTemplate, default_template, default_thinking, normalise_messages, opens_thinking, render
from tests.prompt.official import DATA, TEMPLATES

CONVERSATIONS = json.loads((DATA / "conversations.json").read_text(encoding="utf-8"))
NAMES = [conversation["name"] for conversation in CONVERSATIONS]
DEFAULT_THINKING = {"0.8B_2B": False, "4B_9B": True, "Qwen3.6": True}
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="session")
def transformers_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    from tests.prompt.small_tokenizer import write_small_tokenizer

    path = tmp_path_factory.mktemp("tokenizer")
    write_small_tokenizer(path)
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"), eos_token="<|im_end|>")


@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize("size", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=NAMES)
def test_prompts_equal_transformers(
    conversation: dict[str, Any], size: str, thinking: bool | None, transformers_tokenizer: Any
) -> None:
    messages, tools = conversation["messages"], conversation.get("tools")
    choice = {} if thinking is None else {"enable_thinking": thinking}
    for generate in (True, False):
        expected = transformers_tokenizer.apply_chat_template(
            messages,
            tools=tools,
            chat_template=TEMPLATES[size],
            tokenize=False,
            add_generation_prompt=generate,
            **choice,
        )
        template = ChatTemplate(TEMPLATES[size])
        assert render(messages, tools, template, add_generation_prompt=generate, thinking=thinking) == expected


@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=NAMES)
def test_reasoning_is_preserved_as_in_transformers(
    conversation: dict[str, Any], preserve: bool, transformers_tokenizer: Any
) -> None:
    messages, tools, source = conversation["messages"], conversation.get("tools"), TEMPLATES["Qwen3.6"]
    expected = transformers_tokenizer.apply_chat_template(
        messages, tools=tools, chat_template=source, tokenize=False, preserve_thinking=preserve
    )
    assert render(messages, tools, source, False, preserve_thinking=preserve) == expected
    if conversation["name"] == "history reasoning in a field":
        assert (render(messages, tools, source, False) == expected) is not preserve


def test_whitespace_around_blocks_is_treated_as_in_transformers(transformers_tokenizer: Any) -> None:
    source = "a\n  {% for m in messages %}\n  [{{ m.content }}]\n  {% endfor %}\n{# note #}\nb \n  {{- 1 }}\n"
    expected = transformers_tokenizer.apply_chat_template(HI, chat_template=source, tokenize=False)
    assert render(HI, template=source) == expected


def test_arguments_as_json_text_render_like_a_dict() -> None:
    conversation = next(c for c in CONVERSATIONS if c["name"] == "values of every type")
    as_text = copy.deepcopy(conversation["messages"])
    function = as_text[1]["tool_calls"][0]["function"]
    function["arguments"] = json.dumps(function["arguments"])
    for source in TEMPLATES.values():
        assert render(as_text, template=source) == render(conversation["messages"], template=source)


@pytest.mark.parametrize("size", TEMPLATES)
def test_default_thinking_per_size(size: str) -> None:
    template = ChatTemplate(TEMPLATES[size])
    assert default_thinking(template) is DEFAULT_THINKING[size]
    assert default_thinking(TEMPLATES[size]) is DEFAULT_THINKING[size]
    assert opens_thinking(render(HI, template=template)) is DEFAULT_THINKING[size]
    assert opens_thinking(render(HI, template=template, thinking=True))
    assert not opens_thinking(render(HI, template=template, thinking=False))


def _without_instructions(prompt: str) -> str:
    """The prompt from the first user turn on: the words of the tool instructions are each template's own."""
    return prompt[prompt.index("<|im_start|>user") :]


# Ours reads reasoning from its field only, and takes every user message for a question.
DIFFERENT = ("history reasoning in the content", "user text that looks like a tool result")


@pytest.mark.parametrize(
    "conversation", [c for c in CONVERSATIONS if c["name"] not in DIFFERENT], ids=lambda c: c["name"]
)
def test_own_template_has_the_wire_format_of_the_official_ones(conversation: dict[str, Any]) -> None:
    messages = normalise_messages(conversation["messages"])
    tools = conversation.get("tools")
    for thinking in (True, False):
        ours = render(messages, tools, thinking=thinking)
        official = render(messages, tools, TEMPLATES["Qwen3.6"], thinking=thinking)
        if tools:
            assert _without_instructions(ours) == _without_instructions(official)
            system = messages[0]["content"].strip() if messages[0]["role"] == "system" else ""
            assert ours[: ours.index("<|im_end|>")].endswith(system)
            assert all(json.dumps(tool, ensure_ascii=False) in ours for tool in tools)
        else:
            assert ours == official


def test_own_template_takes_its_thinking_default_from_a_variable() -> None:
    assert default_thinking(default_template()) is False
    assert opens_thinking(render(HI, thinking_default=True))
    assert not opens_thinking(render(HI, thinking_default=True, thinking=False))


def test_own_template_keeps_older_reasoning_when_asked() -> None:
    messages = [*HI, {"role": "assistant", "content": "a", "reasoning": "because"}, *HI]
    assert "because" not in render(messages)
    assert "<think>\nbecause\n</think>\n\na" in render(messages, preserve_thinking=True)


def test_template_is_found_in_its_file_first(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "from config"}))
    assert render(HI, template=ChatTemplate.from_directory(tmp_path)) == "from config"
    (tmp_path / "chat_template.jinja").write_text("from file")
    assert render(HI, template=ChatTemplate.from_directory(tmp_path)) == "from file"


def test_own_template_where_the_checkpoint_has_none(tmp_path: Path) -> None:
    assert ChatTemplate.from_directory(tmp_path) is default_template()
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert ChatTemplate.from_directory(tmp_path) is default_template()


def test_named_templates_and_special_tokens_of_the_config(tmp_path: Path) -> None:
    config = {
        "chat_template": [
            {"name": "default", "template": "{{ bos_token }}plain{{ eos_token }}"},
            {"name": "tool_use", "template": "tools"},
        ],
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    template = ChatTemplate.from_directory(tmp_path)
    assert render(HI, template=template) == "<s>plain</s>"
    assert render(HI, [{"type": "function", "function": {"name": "f"}}], template) == "tools"


def test_line_ends_of_a_template_file_survive(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(TEMPLATES["4B_9B"].replace("\n", "\r\n").encode())
    assert render(HI, template=ChatTemplate.from_directory(tmp_path)) == render(HI, template=TEMPLATES["4B_9B"])


def test_generation_tag_is_only_its_content() -> None:
    source = "{% for m in messages %}{% generation %}[{{ m.content }}]{% endgeneration %}{% endfor %}"
    assert render(HI, template=source) == "[hi]"


def test_tojson_is_plain_json() -> None:
    value = {"b": "<é> & 'x'", "a": [1, None]}
    source = "{{ value | tojson }} {{ value | tojson(indent=1) }}"
    expected = json.dumps(value, ensure_ascii=False) + " " + json.dumps(value, ensure_ascii=False, indent=1)
    assert render(HI, template=source, value=value) == expected


def test_strftime_now_is_there() -> None:
    assert render(HI, template="{{ strftime_now('%Y') }}").isdigit()
