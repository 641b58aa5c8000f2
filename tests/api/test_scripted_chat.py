"""What chat makes of a model's words: the ids are given, the rest is real."""

from __future__ import annotations

import json

import pytest

import ingot
from ingot.engine import Token
from tests.api.small_model import write_small_model
from tests.prompt.parsing import tool

MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = tool("add", a={"type": "integer"}, b={"type": "integer"})
PARAMETERS = "<parameter=a>\n17\n</parameter>\n<parameter=b>\n25\n</parameter>\n"
CALL = f"<tool_call>\n<function=add>\n{PARAMETERS}</function>\n</tool_call>"


@pytest.fixture(scope="module")
def m(tmp_path_factory):
    return ingot.load(write_small_model(tmp_path_factory.mktemp("model")))


class Script:
    """A scheduler whose only answer is given."""

    def __init__(self, ids):
        self._tokens = [Token(0, i, last=n == len(ids)) for n, i in enumerate(ids, 1)]

    @property
    def unfinished(self):
        return bool(self._tokens)

    def add(self, request):
        return range(1)

    def step(self):
        return [self._tokens.pop(0)]

    def cancel(self, answer):
        self._tokens.clear()

    close = unfinished.fget


@pytest.fixture
def says(m, monkeypatch):
    """Makes the model say a text, then end its turn, or not when cut."""

    def script(text, cut=False):
        ids = m.tokenizer.encode(text) + ([] if cut else [m.tokenizer.token_id("<|im_end|>")])
        monkeypatch.setattr(m.engine, "scheduler", lambda width, slice_s=None: Script(ids))

    return script


def test_tool_call_is_parsed_typed_and_ends_the_turn(m, says):
    says(f"I add.\n\n{CALL}")
    answer = m.chat(MESSAGES, tools=[TOOL], thinking=False)
    assert answer.content.strip() == "I add."
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.tool_calls
    assert call["function"]["name"] == "add"
    assert json.loads(call["function"]["arguments"]) == {"a": 17, "b": 25}
    turn = [*MESSAGES, answer.message, {"role": "tool", "content": "42"}]
    assert CALL in m.encode(turn, tools=[TOOL]).text  # and it renders back as it was said


@pytest.mark.parametrize("kept", range(20, len(CALL) - 14, 9))
def test_call_cut_by_length_is_never_offered_to_run(m, says, kept):
    says(CALL[:kept], cut=True)
    answer = m.chat(MESSAGES, tools=[TOOL], thinking=False)
    assert answer.tool_calls == []
    assert answer.finish_reason == "length"


def test_cut_call_is_shown_as_incomplete(m, says):
    says(CALL[: CALL.index("</function>")], cut=True)
    answer = m.chat(MESSAGES, tools=[TOOL], thinking=False)
    assert answer.incomplete_call["function"]["name"] == "add"


def test_reasoning_is_split_from_the_answer_and_counted(m, says):
    says("17 and 25\nmake 42\n</think>\n\nIt is 42.")
    answer = m.chat(MESSAGES, thinking=True)
    assert answer.reasoning == "17 and 25\nmake 42"
    assert answer.content == "It is 42."
    assert 0 < answer.usage.reasoning_tokens < answer.usage.completion_tokens
    assert answer.message["reasoning_content"] == answer.reasoning


def test_stop_string_counts_in_the_content_only(m, says):
    says("42 42 STOP 42\n</think>\n\nthe answer STOP is 42")
    answer = m.chat(MESSAGES, thinking=True, stop="STOP")
    assert "STOP" in answer.reasoning
    assert answer.content == "the answer "
    assert answer.finish_reason == "stop"


def test_characters_are_never_cut(m, says):
    text = "grüße 你好 🙂 — done"
    says(text)
    deltas = list(m.chat(MESSAGES, thinking=False, stream=True))
    assert "".join(d.content for d in deltas) == text
    assert all("�" not in d.content for d in deltas)
    assert len(deltas) > 5


def test_without_tools_the_markup_is_content(m, says):
    says(CALL)
    assert m.chat(MESSAGES, thinking=False).content == CALL
