"""The output parser by properties: any split gives the same message; parsing inverts rendering; nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingot.prompt import ChatTemplate, render
from tests.prompt.official import TEMPLATES
from tests.prompt.parsing import TOOLS, calls, parse, tool

TAGS = ["<tool_call>", "</tool_call>", "<function=weather>", "<function=now>", "<function=nope>", "<function=weather",
        "</function>", "<parameter=city>", "<parameter=days>", "<parameter=lines>", "<parameter=x", "</parameter>",
        "<think>", "</think>"]  # fmt: skip
SCRAPS = [
    "\n",
    "\n\n",
    " ",
    "x",
    "5",
    "```",
    "`",
    "<",
    "</",
    "é",
    "🙂",
    "[1]",
    "<tool_cal",
    "\u3000",
    "\r\n",
    "hello",
    ">",
]
ONE_CALL = ["<tool_call>", "\n", "<function=weather>", "\n", "<parameter=city>", "\n", "x", "\n", "</parameter>", "\n",
            "<parameter=days>", "\n", "5", "\n", "</parameter>", "\n", "</function>", "\n", "</tool_call>"]  # fmt: skip


@st.composite
def damaged_calls(draw: st.DrawFn) -> str:
    """One to three well-formed calls with pieces inserted, dropped and replaced."""
    parts = ONE_CALL * draw(st.integers(1, 3))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(parts) - 1))
        new = draw(st.sampled_from([[], *([piece] for piece in TAGS + SCRAPS), [parts[at], parts[at]]]))
        parts[at : at + 1] = new
        if not parts:
            break
    return "".join(parts)


def scrambled() -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(TAGS + SCRAPS) | st.text(max_size=3), max_size=25).map("".join)


@settings(max_examples=400)
@given(
    text=damaged_calls() | scrambled(),
    thinking=st.sampled_from([True, False, None]),
    tools=st.sampled_from([TOOLS, None]),
    truncated=st.booleans(),
    data=st.data(),
)
def test_every_split_gives_the_same_message(
    text: str, thinking: bool | None, tools: Any, truncated: bool, data: st.DataObject
) -> None:
    whole = parse(text, thinking, tools, truncated=truncated)
    assert parse(text, thinking, tools, range(1, len(text)), truncated) == whole
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert parse(text, thinking, tools, cuts, truncated) == whole


@given(text=scrambled())
def test_without_tools_and_thinking_the_text_is_the_content(text: str) -> None:
    message = parse(text, thinking=False, tools=None, cuts=range(0, len(text), 3))
    assert message.content == text
    assert (message.reasoning, message.tool_calls, message.incomplete_call) == ("", [], None)


@given(words=st.text(alphabet="ab <>/=\n`cdfilnoptu_", max_size=80))
def test_text_without_whole_tags_is_never_taken_for_a_call(words: str) -> None:
    message = parse(words, thinking=False)
    if "<function=" not in words:
        assert message.content == words


# What no reader of this format can tell apart is left out: markup in a value or text right before other markup.
QUOTED = ["<tool_call>", "<function=f>", "</tool_call>", "</function>", "</parameter>", "<parameter=other>", "<think>",
          "<b>", "&amp;", '"', "\\n", "{", "None", "true", "007", "\t", "\r\n", "\n", "  "]  # fmt: skip


def values() -> st.SearchStrategy[str]:
    word = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), min_size=1, max_size=6)
    solid = word.filter(lambda text: not text.isspace())
    quoting = st.lists(st.tuples(st.sampled_from(QUOTED), solid).map("".join), max_size=5).map("".join)
    return st.tuples(st.sampled_from(["", "\n", " ", "a"]), quoting, st.sampled_from(["", "\n", " \n\n"])).map("".join)


def prose() -> st.SearchStrategy[str]:
    pieces = st.text(st.characters(exclude_characters="<`~", exclude_categories=["Cs"]), max_size=8)
    mention = st.sampled_from(["<tool_call> x", "<function=f> x", "</function>x", "<", "</thin", ""])
    return st.lists(st.tuples(pieces, mention).map("".join), max_size=4).map(lambda parts: "".join(parts).strip())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.loads(json.dumps(value)))
NOT_NULL = values().filter(lambda text: text.strip().lower() not in ("none", "null"))
TYPES: dict[str, tuple[dict[str, Any], st.SearchStrategy[Any]]] = {
    "text": ({"type": "string"}, values()),
    "whole": ({"type": "integer"}, st.integers()),
    "real": ({"type": "number"}, st.floats(allow_nan=False, allow_infinity=False) | st.integers()),
    "flag": ({"type": "boolean"}, st.booleans()),
    "list": ({"type": "array", "items": {}}, st.lists(JSON, max_size=3)),
    "object": ({"$ref": "#/$defs/thing"}, st.dictionaries(st.text(max_size=3), JSON, max_size=3)),
    "maybe": ({"anyOf": [{"type": "string"}, {"type": "null"}]}, st.none() | NOT_NULL),
    "choice": ({"enum": ["a", 1, True, None]}, st.sampled_from(["a", 1, True, None])),
    "ünï cödé 'q'": ({"type": "string"}, values()),
}
DO = tool("do", **{name: schema for name, (schema, _) in TYPES.items()})
DO["function"]["parameters"]["$defs"] = {"thing": {"type": "object"}}
ARGUMENTS = st.fixed_dictionaries({}, optional={name: strategy for name, (_, strategy) in TYPES.items()})


def _output(message: dict[str, Any], template: ChatTemplate | None) -> str:
    """What a model must have written for the conversation to continue with `message`."""
    question = {"role": "user", "content": "Q"}
    prompt = render([question], [DO], template, thinking=True)
    whole = render([question, message], [DO], template, add_generation_prompt=False)
    assert whole.startswith(prompt)
    return whole[len(prompt) :].removesuffix("<|im_end|>\n")


@settings(max_examples=150)
@given(
    content=prose(),
    reasoning=prose(),
    arguments=st.lists(ARGUMENTS, max_size=3),
    size=st.sampled_from([*TEMPLATES, None]),
    data=st.data(),
)
@example(content="", reasoning="", arguments=[{"text": "\n"}, {"text": ""}], size=None, data=None)
def test_parsing_inverts_rendering(
    content: str, reasoning: str, arguments: list[dict[str, Any]], size: str | None, data: Any
) -> None:
    template = ChatTemplate(TEMPLATES[size]) if size else None
    message = {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": [{"type": "function", "function": {"name": "do", "arguments": given}} for given in arguments],
    }
    text = _output(message, template)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=4)) if data else []
    parsed = parse(text, True, [DO], cuts)
    assert (parsed.content, parsed.reasoning) == (content, reasoning)
    assert json.dumps([given for _, given in calls(parsed)]) == json.dumps(arguments)
    assert parsed.warnings == []
    assert parsed.incomplete_call is None


@pytest.mark.parametrize("size", [*TEMPLATES, None])
def test_a_parsed_answer_renders_to_the_same_text(size: str | None) -> None:
    """History equals what the model wrote: the prefix of the next prompt is in the cache."""
    template = ChatTemplate(TEMPLATES[size]) if size else None
    text = (
        "So.\n</think>\n\nLet me.\n\n<tool_call>\n<function=do>\n<parameter=text>\n a\nb\n</parameter>\n"
        "<parameter=whole>\n-5\n</parameter>\n</function>\n</tool_call>"
    )
    assert _output(parse(text, True, [DO]).as_message(), template) == text
