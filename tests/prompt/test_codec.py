"""The output parser case by case; every case whole, character by character, and cut in two at every place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from ingot.prompt import OutputParser
from tests.prompt.parsing import TOOLS, calls, parse

PARIS = "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
NOW = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
CALL_PARIS = ("weather", {"city": "Paris"})


def value(text: str, name: str = "text") -> str:
    return f"<tool_call>\n<function=write>\n<parameter={name}>\n{text}\n</parameter>\n</function>\n</tool_call>"


@dataclass
class Case:
    text: str
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    incomplete: tuple[str, str] | None = None
    thinking: bool | None = False
    truncated: bool = False
    tools: bool = True


THINKING = {
    "reasoning and answer": Case("I see.\n</think>\n\nYes.", "Yes.", "I see.", thinking=True),
    "reasoning with its opening": Case("<think>\nI see.\n</think>\n\nYes.", "Yes.", "I see.", thinking=True),
    "opening twice": Case("<think>\n<think>\nI see.</think>Yes.", "Yes.", "I see.", thinking=True),
    "empty reasoning": Case("</think>\n\nYes.", "Yes.", thinking=True),
    "nothing": Case("", thinking=True),
    "only whitespace": Case("\n\n", thinking=True),
    "reasoning only": Case("I see", reasoning="I see", thinking=True, truncated=True),
    "closing twice": Case("a</think>\n</think>\n\nb", "b", "a", thinking=True),
    "closing tag in the answer": Case("a</think>b</think>c", "b</think>c", "a", thinking=True),
    "closing tag without thinking": Case("a</think>\nb", "a</think>\nb"),
    "opening tag without thinking": Case("<think>a</think>b", "<think>a</think>b"),
    "unknown, the answer thinks": Case("<think>\na\n</think>\n\nb", "b", "a", thinking=None),
    "unknown, the answer does not think": Case("\nb <think>", "\nb <think>", thinking=None),
    "opening tag inside reasoning": Case("a <think> b</think>c", "c", "a <think> b", thinking=True),
    "look-alikes in reasoning": Case(
        "a < b </thin </ think> </think", "", "a < b </thin </ think> </think", thinking=True
    ),
    "indented answer": Case("a\n</think>\n\n    b\n", "b\n", "a", thinking=True),
    "unicode spaces": Case("\u3000a\u00a0\n</think>\u2003b\u3000c\u3000", "b\u3000c\u3000", "a", thinking=True),
    "replacement characters": Case("\ufffda\ufffd</think>\ufffdb", "\ufffdb", "\ufffda\ufffd", thinking=True),
    "call ends reasoning": Case(f"Let me see\n{PARIS}", "", "Let me see", [CALL_PARIS], thinking=True),
    "call after reasoning": Case(f"Let me\n</think>\n\n{PARIS}", "", "Let me", [CALL_PARIS], thinking=True),
    "call in reasoning, then its end": Case(
        f"See\n{PARIS}\n</think>\n\nDone", "Done", "See", [CALL_PARIS], thinking=True
    ),
    "mention in reasoning": Case("use <tool_call> now</think>ok", "ok", "use <tool_call> now", thinking=True),
    "unknown tool in reasoning": Case(
        "<tool_call>\n<function=example>\n</function></think>ok",
        "ok",
        "<tool_call>\n<function=example>\n</function>",
        thinking=True,
    ),
    "bare call in reasoning": Case("\n<function=now>\n</function>", "", "<function=now>\n</function>", thinking=True),
    "fenced call in reasoning": Case(f"```\n{PARIS}\n```\n</think>ok", "ok", f"```\n{PARIS}\n```", thinking=True),
    "call in reasoning without tools": Case(f"a{PARIS}</think>b", "b", f"a{PARIS}", thinking=True, tools=False),
}

CONTENT = {
    "plain": Case("Hello, world.\n", "Hello, world.\n"),
    "leading whitespace": Case("  Hello", "  Hello"),
    "mention": Case("Use <tool_call> for that.", "Use <tool_call> for that."),
    "mention of both": Case("<tool_call> then <function=name> ...", "<tool_call> then <function=name> ..."),
    "mention in backticks": Case("`<tool_call><function=f>` is it", "`<tool_call><function=f>` is it"),
    "mention, then a call": Case(f"A <tool_call>!\n{PARIS}", "A <tool_call>!", calls=[CALL_PARIS]),
    "look-alikes": Case("a < b <t <tool_cal <tool_call", "a < b <t <tool_cal <tool_call"),
    "end of a tag": Case("x <tool_call>\n<func", "x <tool_call>\n<func", truncated=True),
    "closing tags": Case("a </tool_call> b </function>", "a </tool_call> b </function>"),
    "JSON call of another family": Case(
        '<tool_call>\n{"name": "now"}\n</tool_call>', '<tool_call>\n{"name": "now"}\n</tool_call>'
    ),
    "fenced example": Case(f"So:\n```xml\n{PARIS}\n```\nGood?", f"So:\n```xml\n{PARIS}\n```\nGood?"),
    "fenced with tildes": Case(f"~~~~\n```\n{PARIS}\n```\n~~~~", f"~~~~\n```\n{PARIS}\n```\n~~~~"),
    "longer fence": Case(f"````\n```\n{PARIS}\n````", f"````\n```\n{PARIS}\n````"),
    "after a fence": Case(f"```\nx\n```\n{PARIS}", "```\nx\n```", calls=[CALL_PARIS]),
    "three backticks in a line": Case(f"a ```b``` c\n{PARIS}", "a ```b``` c", calls=[CALL_PARIS]),
    "inline code at a line start": Case(f"```b``` c\n{PARIS}", "```b``` c", calls=[CALL_PARIS]),
    "no tools": Case(f"a\n{PARIS}\n", f"a\n{PARIS}\n", tools=False),
    "emoji and tags": Case("🙂<🙂</tool_call🙂", "🙂<🙂</tool_call🙂"),
}

CALLS = {
    "one": Case(PARIS, calls=[CALL_PARIS]),
    "with words": Case(f"Let me see.\n\n{PARIS}", "Let me see.", calls=[CALL_PARIS]),
    "words behind": Case(f"{PARIS}\n\nWait for it.\n", "Wait for it.\n", calls=[CALL_PARIS]),
    "words around": Case(f"See:\n\n{PARIS}\nWait.", "See:\nWait.", calls=[CALL_PARIS]),
    "a newline behind": Case(f"Let me see.\n\n{PARIS}\n", "Let me see.", calls=[CALL_PARIS]),
    "without arguments": Case(NOW, calls=[("now", {})]),
    "two": Case(f"{PARIS}\n{NOW}", calls=[CALL_PARIS, ("now", {})]),
    "two, nothing between": Case(f"Go{PARIS}{NOW}", "Go", calls=[CALL_PARIS, ("now", {})]),
    "many": Case("\n".join([PARIS] * 5), calls=[CALL_PARIS] * 5),
    "unknown tool": Case(PARIS.replace("weather", "nope"), calls=[("nope", {"city": "Paris"})]),
    "dots, dashes, unicode": Case(NOW.replace("now", "files.search-α"), calls=[("files.search-α", {})]),
    "all in one line": Case(PARIS.replace("\n", ""), calls=[CALL_PARIS]),
    "generous whitespace": Case(
        "<tool_call> \n\n <function=weather> \r\n\t<parameter=city>\nParis\n</parameter>\n\n\n</function> </tool_call>",
        calls=[CALL_PARIS],
    ),
    "quoted names": Case(PARIS.replace("=weather", '="weather"').replace("=city", "='city'"), calls=[CALL_PARIS]),
    "spaces in names": Case(PARIS.replace("=city", "=my city"), calls=[("weather", {"my city": "Paris"})]),
    "several types": Case(
        "<tool_call>\n<function=weather>\n<parameter=days>\n3\n</parameter>\n<parameter=city>\n3\n</parameter>\n"
        "</function>\n</tool_call>",
        calls=[("weather", {"days": 3, "city": "3"})],
    ),
    "parameter twice": Case(
        "<tool_call>\n<function=weather>\n<parameter=city>\nA\n</parameter>\n<parameter=city>\nB\n</parameter>\n</function>",
        calls=[("weather", {"city": "A"})],
    ),
    "nameless parameter": Case(
        "<tool_call>\n<function=weather>\n<parameter=>\nA\n</parameter>\n<parameter=city>\nB\n</parameter>\n</function>",
        calls=[("weather", {"city": "B"})],
    ),
    "words between parameters": Case(
        "<tool_call>\n<function=write>\n<parameter=path>\na\n</parameter>\n</parameter>\n\n<parameter=text>\nb\n</parameter>\n"
        "stray <words>\n</function>\n</tool_call>",
        calls=[("write", {"path": "a", "text": "b\n</parameter>\nstray <words>"})],
    ),
}

VALUES = {
    "quotes and backslashes": r'say "hi" \n \\ \u0041',
    "JSON": '{"a": [1, "x"]}',
    "number": "007",
    "null": "null",
    "HTML": "<b>&amp; <a href='x'>y</a> </b>",
    "line breaks": "a\r\nb\tc\n\n  d",
    "indented": "    def f():\n        pass",
    "newline at the end": "a\n",
    "newlines around": "\n\na\n\n",
    "only a newline": "\n",
    "empty": "",
    "unicode": "naïve 猫 🙂 \u2028 \x00",
    "closing tag": "a </parameter> b",
    "closing tag at the end": "a</parameter>",
    "closing tag at the start": "</parameter> b",
    "function closed": "a </function> b </tool_call> c",
    "opening tags": "a <parameter=path> <function=now> <tool_call> b",
    "opening line": "a\n<parameter=other>\nb",
    "a whole call": f"Example:\n{PARIS}\nthat was it",
    "a whole call at the end": f"Example:\n{PARIS}",
    "a whole call with two parameters": "x\n"
    + PARIS.replace("</function>", "<parameter=units>\nC\n</parameter>\n</function>")
    + "\ny",
    "calls in a row": f"Examples:\n{PARIS}\n{NOW}\nend",
    "think tags": "<think>a</think>",
    "half a tag": "a </param",
    "control tokens": "<|im_end|>",
    "a fence": "```\ncode",
}

REPAIRED = {
    "no </parameter> before </function>": Case(PARIS.replace("</parameter>\n", ""), calls=[CALL_PARIS]),
    "nor the newline": Case(PARIS.replace("\n</parameter>\n", ""), calls=[CALL_PARIS]),
    "no </parameter> before a parameter": Case(
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
        calls=[("weather", {"city": "Paris", "days": 2})],
    ),
    "no </tool_call> between calls": Case(f"{PARIS[:-12]}{NOW}", calls=[CALL_PARIS, ("now", {})]),
    "no </tool_call> at the end": Case(PARIS[:-12], calls=[CALL_PARIS]),
    "no </function>": Case(PARIS.replace("</function>\n", ""), calls=[CALL_PARIS]),
    "no </function> and no </tool_call>": Case(PARIS.replace("</function>\n</tool_call>", ""), calls=[CALL_PARIS]),
    "no </function>, next call": Case(
        PARIS.replace("</function>\n</tool_call>", "") + NOW, calls=[CALL_PARIS, ("now", {})]
    ),
    "no </parameter>, no </function>": Case(PARIS.replace("</parameter>\n</function>\n", ""), calls=[CALL_PARIS]),
    "no <tool_call>": Case(f"See.\n\n{PARIS[12:]}", "See.", calls=[CALL_PARIS]),
    "no <tool_call> and an unknown tool": Case("See.\n<function=f>\n</function>", "See.\n<function=f>\n</function>"),
    "no <tool_call>, inside a line": Case("see <function=now>\n</function>", "see <function=now>\n</function>"),
    "<tool_call> twice": Case(f"<tool_call>\n{PARIS}", calls=[CALL_PARIS]),
    "name without bracket": Case(PARIS.replace("weather>", "weather"), calls=[CALL_PARIS]),
    "name without bracket, closed at once": Case(NOW.replace("now>\n", "now"), calls=[("now", {})]),
    "two names": Case(NOW.replace("=now", "=no<function=now"), calls=[("now", {})]),
    "parameter name without bracket": Case(PARIS.replace("city>", "city"), calls=[CALL_PARIS]),
    "</parameter> twice": Case(PARIS.replace("</parameter>", "</parameter>\n</parameter>"), calls=[CALL_PARIS]),
    "</parameter> twice in a line": Case(
        PARIS.replace("\n", "").replace("</parameter>", "</parameter></parameter>"), calls=[CALL_PARIS]
    ),
    "</function> twice": Case(PARIS.replace("</function>", "</function>\n</function>"), calls=[CALL_PARIS]),
    "</tool_call> twice": Case(PARIS + "\n</tool_call>\nok", "ok", calls=[CALL_PARIS]),
    "cut in the last closing tag": Case(PARIS[:-3], calls=[CALL_PARIS]),
    "cut in </function>": Case(PARIS[:-16], calls=[CALL_PARIS]),
    "words where parameters belong": Case("<tool_call>\n<function=now>\nplease", "<tool_call>\n<function=now>\nplease"),
}

CUT = {
    "in the name": Case("Ok\n\n<tool_call>\n<function=wea", "Ok", incomplete=("wea", "")),
    "behind the name": Case("<tool_call>\n<function=weather>\n", incomplete=("weather", "")),
    "in a parameter's name": Case("<tool_call>\n<function=weather>\n<parameter=ci", incomplete=("weather", "")),
    "in a text": Case(
        "<tool_call>\n<function=weather>\n<parameter=city>\nPar", incomplete=("weather", '{"city": "Par')
    ),
    "before a number": Case(
        "<tool_call>\n<function=weather>\n<parameter=days>\n12", incomplete=("weather", '{"days": ')
    ),
    "in reasoning": Case("I th", reasoning="I th", thinking=True),
    "second call": Case(f"{PARIS}\n<tool_call>\n<function=now", calls=[CALL_PARIS], incomplete=("now", "")),
    "bare name": Case("<function=weather>\n<par", incomplete=("weather", "")),
    "name alone in reasoning": Case("a <tool_call>\n<function=wea", "", "a <tool_call>\n<function=wea", thinking=True),
    "call in reasoning": Case("a\n<tool_call>\n<function=weather>", "", "a", incomplete=("weather", ""), thinking=True),
}

CASES = {
    **{f"thinking: {name}": case for name, case in THINKING.items()},
    **{f"content: {name}": case for name, case in CONTENT.items()},
    **{f"calls: {name}": case for name, case in CALLS.items()},
    **{f"value: {name}": Case(value(text), calls=[("write", {"text": text})]) for name, text in VALUES.items()},
    **{f"repaired: {name}": case for name, case in REPAIRED.items()},
    **{f"cut: {name}": case for name, case in CUT.items()},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case(case: Case) -> None:
    tools = TOOLS if case.tools else None
    whole = parse(case.text, case.thinking, tools, truncated=case.truncated)
    assert whole.content == case.content
    assert whole.reasoning == case.reasoning
    assert calls(whole) == case.calls
    incomplete = whole.incomplete_call and whole.incomplete_call["function"]
    assert incomplete == (case.incomplete and dict(zip(("name", "arguments"), case.incomplete, strict=True)))
    length = len(case.text)
    assert parse(case.text, case.thinking, tools, range(1, length), case.truncated) == whole
    for cut in range(length):
        assert parse(case.text, case.thinking, tools, [cut], case.truncated) == whole


CUT_ANYWHERE = f"Words.\n\n{PARIS}\n{value('a' + chr(10) + 'b')}"


@pytest.mark.parametrize("end", range(len(CUT_ANYWHERE)))
def test_a_cut_answer_never_has_an_invented_call(end: int) -> None:
    message = parse(CUT_ANYWHERE[:end], truncated=True)
    expected = [CALL_PARIS, ("write", {"text": "a\nb"})]
    found = calls(message)
    assert found == expected[: len(found)]
    assert len(found) == sum(
        end >= CUT_ANYWHERE.index("</function>", at) + 11 for at in (0, CUT_ANYWHERE.index("=write"))
    )


def test_an_unfinished_call_counts_only_when_nothing_but_closing_tags_is_missing() -> None:
    text = PARIS[: PARIS.index("</function>")]
    assert calls(parse(text)) == [CALL_PARIS]
    assert parse(text).warnings == ["a tool call that the answer ended in was taken as complete"]
    assert calls(parse(text, truncated=True)) == []
    assert parse(text, truncated=True).incomplete_call is not None


def test_repairs_are_said() -> None:
    assert parse(PARIS).warnings == []
    assert parse(f"a{PARIS}", True).warnings == [
        "a tool call inside the reasoning was taken as the end of the reasoning"
    ]
    assert "without </function>" in parse(REPAIRED["no </function>"].text).warnings[0]
    assert "'city'" in parse(CALLS["parameter twice"].text).warnings[0]


def test_text_streams_before_the_answer_ends() -> None:
    parser = OutputParser(False, TOOLS)
    assert "".join(delta.content for delta in parser.feed("Hello wor")) == "Hello wor"
    assert parser.feed("<tool_call>\n<function=weather>\n") == []
    started = parser.feed("<parameter=city>\nSan")
    assert [d.tool_call.name for d in started if d.tool_call] == ["weather", None]
    assert "".join(d.tool_call.arguments for d in started if d.tool_call) == '{"city": "San'
    more = parser.feed(" Fran")
    assert [d.tool_call.arguments for d in more if d.tool_call] == [" Fran"]


def test_call_ids_are_unique() -> None:
    parser = OutputParser(False, TOOLS)
    parser.feed(f"{NOW}\n{NOW}")
    first, second = (call["id"] for call in parser.finish().tool_calls)
    assert first != second
    assert first.startswith("call_")


def test_as_message_is_what_templates_take() -> None:
    from ingot.prompt import normalise_messages

    message = parse(f"hm\n</think>\n\nSee.\n\n{PARIS}", True).as_message()
    normal = normalise_messages([{"role": "user", "content": "x"}, message])[1]
    assert normal["reasoning_content"] == "hm"
    assert normal["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
    assert parse("Hi").as_message() == {"role": "assistant", "content": "Hi"}


def test_use_after_the_end() -> None:
    parser = OutputParser()
    first = parser.finish()
    assert parser.finish() is first
    with pytest.raises(ValueError, match="feed was called after finish"):
        parser.feed("x")


LONG = {
    "text": "a" * 100_000,
    "whitespace": " " * 100_000,
    "brackets": "<" * 30_000,
    "tags": "<tool_call>" * 7_000,
    "names": "<tool_call><function=" * 4_000,
    "value": value("x" * 100_000),
    "value of brackets": value("<" * 30_000),
    "value of closing tags": value("</parameter>" * 7_000),
    "value of newlines": value("\n" * 100_000),
    "spaces behind a closing tag": value("</parameter>" + " " * 100_000),
    "parameters": value("x").replace("</function>", "<parameter=p>\n1\n</parameter>\n" * 5_000 + "</function>"),
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_time_is_linear_in_the_text(text: str) -> None:
    started = time.thread_time()
    whole = parse(text)
    pieces = parse(text, cuts=range(7, len(text), 7))
    assert whole == pieces
    assert time.thread_time() - started < 30  # about a second; quadratic would be many minutes
