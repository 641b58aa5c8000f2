"""Messages and tools: what is accepted, what it becomes, and every refusal with its place and rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ingot.prompt import normalise_messages, normalise_tools, render

USER = {"role": "user", "content": "hi"}


def _call(arguments: Any = "{}", **fields: Any) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}, **fields}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


def test_normal_form() -> None:
    messages = [
        {"role": "developer", "content": "be brief", "name": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}], "name": "Ann"},
        {**_call('{"x": [1, null]}', index=0), "reasoning": "hm", "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "1", "content": None},
        {"role": "assistant", "content": "c", "reasoning_content": "same", "reasoning": "same", "tool_calls": []},
    ]
    untouched = copy.deepcopy(messages)
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": {"x": [1, None]}}}
    assert normalise_messages(messages) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab", "name": "Ann"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "reasoning": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "1"},
        {"role": "assistant", "content": "c", "reasoning_content": "same", "reasoning": "same"},
    ]
    assert messages == untouched


@pytest.mark.parametrize("arguments", ["", "  ", "null", None, {}, "{}"])
def test_no_arguments(arguments: Any) -> None:
    normal = normalise_messages([USER, _call(arguments)])
    assert normal[1]["tool_calls"][0]["function"]["arguments"] == {}


def test_copies_share_nothing_with_the_caller() -> None:
    arguments = {"list": [1]}
    normal = normalise_messages([USER, _call(arguments)])
    normal[1]["tool_calls"][0]["function"]["arguments"]["list"].append(2)
    assert arguments == {"list": [1]}
    tools = [_tool(parameters={"type": "object", "properties": {}})]
    copied = normalise_tools(tools)
    assert copied == tools
    assert copied is not None
    copied[0]["function"]["parameters"]["properties"]["x"] = {}
    assert tools[0]["function"]["parameters"]["properties"] == {}


def test_no_tools() -> None:
    assert normalise_tools(None) is None
    assert normalise_tools([]) is None


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE

BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "a text": ("hi", "messages is a str; it must be a list of messages"),
    "one message": (USER, "messages is a dict; it must be a list of messages"),
    "none": (None, "messages is a NoneType"),
    "empty": ([], "messages is empty"),
    "not a dict": ([USER, "hi"], "messages[1] is 'hi'; it must be a dict"),
    "no role": ([{"content": "hi"}], "messages[0].role is None; it must be system, developer, user, assistant or tool"),
    "unknown role": ([USER, {"role": "bot", "content": "x"}], "messages[1].role is 'bot'"),
    "unhashable role": ([{"role": [], "content": "x"}], "messages[0].role is []"),
    "unknown field": (
        [{**USER, "contents": "x"}],
        "messages[0] has the unknown field 'contents'; a message with the role",
    ),
    "field of another role": ([{**USER, "tool_calls": []}], "messages[0] has the unknown field 'tool_calls'"),
    "no content": ([{"role": "user"}], "messages[0].content is None; it must be a text or a list of parts"),
    "number as content": ([{"role": "user", "content": 5}], "messages[0].content is 5; it must be a text"),
    "dict as content": ([{"role": "user", "content": {"text": "x"}}], "messages[0].content is {'text': 'x'}"),
    "text as part": ([{"role": "user", "content": ["x"]}], "messages[0].content[0] is 'x'; it must be a dict"),
    "part without text": ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text is None"),
    "unknown part": ([{"role": "user", "content": [{"type": "file"}]}], "messages[0].content[0].type is 'file'"),
    "field of a part": (
        [{"role": "user", "content": [{"type": "text", "text": "x", "bold": 1}]}],
        "messages[0].content[0] has the unknown field 'bold'",
    ),
    "picture without a source": (
        [USER, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        "messages[1].content[0].image_url.url is None; it must be a path, a data: URL, bytes or pixels",
    ),
    "detail": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "most"}}]}],
        "messages[0].content[0].image_url.detail is 'most'; it must be 'auto', 'high' or 'low'",
    ),
    "field of a picture": (
        [{"role": "user", "content": [{"image": "x.png", "size": 3}]}],
        "messages[0].content[0] has the unknown field 'size'; a part of type 'image' may have",
    ),
    "frames a second": (
        [{"role": "user", "content": [{"type": "video", "video": ["x"], "fps": 0}]}],
        "messages[0].content[0].video.fps is 0; it must be a positive number",
    ),
    "sound": ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], "type is 'input_audio'"),
    "surrogate": ([{"role": "user", "content": "a\udc80"}], "messages[0].content has the lone surrogate U+DC80 at"),
    "surrogate in arguments": (
        [USER, _call({"k": ["\ud800"]})],
        "messages[1].tool_calls[0].function.arguments.k[0] has the lone surrogate U+D800",
    ),
    "reasoning of two kinds": (
        [USER, {"role": "assistant", "content": "", "reasoning": "a", "reasoning_content": "b"}],
        "messages[1] has reasoning and reasoning_content that differ",
    ),
    "number as reasoning": (
        [USER, {"role": "assistant", "reasoning": 1}],
        "messages[1].reasoning is 1; it must be a text",
    ),
    "refusal": (
        [USER, {"role": "assistant", "refusal": "no"}],
        "messages[1].refusal is 'no'; Ingot takes it only empty",
    ),
    "calls not a list": ([USER, {"role": "assistant", "tool_calls": {"a": 1}}], "messages[1].tool_calls is {'a': 1}"),
    "call not a dict": ([USER, {"role": "assistant", "tool_calls": ["f"]}], "messages[1].tool_calls[0] is 'f'"),
    "call of another type": ([USER, _call(type="custom")], "messages[1].tool_calls[0].type is 'custom'"),
    "call without function": (
        [USER, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}],
        "messages[1].tool_calls[0].function is None; it must be a dict",
    ),
    "unknown field of a call": ([USER, _call(colour=1)], "messages[1].tool_calls[0] has the unknown field 'colour'"),
    "invalid JSON": (
        [USER, _call('{"a": ')],
        "messages[1].tool_calls[0].function.arguments is not valid JSON (Expecting value",
    ),
    "JSON list": (
        [USER, _call("[1]")],
        "messages[1].tool_calls[0].function.arguments is [1]; it must be a JSON object",
    ),
    "not a number": ([USER, _call('{"a": NaN}')], "function.arguments.a is nan; it must be a finite number"),
    "object as argument": (
        [USER, _call({"a": object})],
        "function.arguments.a is <class 'object'>; it must be a JSON value",
    ),
    "number as key": ([USER, _call({1: 2})], "function.arguments key is 1; it must be a text"),
    "bracket in a key": ([USER, _call({"a>b": 2})], "function.arguments key is 'a>b'; it must be a name without"),
    "endless": ([USER, _call(CYCLE)], "nests more than 100 levels deep"),
    "tool result first": (
        [{"role": "tool", "content": "1"}],
        "messages[0] has the role 'tool'; a tool result must follow",
    ),
}


@pytest.mark.parametrize(("messages", "message"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_bad_messages(messages: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        render(messages)
    assert message in str(caught.value)


BAD_TOOLS: dict[str, tuple[Any, str]] = {
    "one tool": (_tool(), "tools is a dict; it must be a list of function definitions or None"),
    "not a dict": ([print], "tools[0] is <built-in function print>; it must be a dict"),
    "no type": ([{"name": "f"}], "tools[0].type is None; it must be 'function'"),
    "no function": ([{"type": "function", "name": "f"}], "tools[0].function is None; it must be a dict"),
    "no name": ([{"type": "function", "function": {}}], "tools[0].function.name is None; it must be a text"),
    "empty name": ([_tool(name=" ")], "tools[0].function.name is ' '; it must be a name"),
    "bracket in the name": ([_tool(name="a>b")], "tools[0].function.name is 'a>b'; it must be a name without '<', '>'"),
    "line break in the name": ([_tool(name="a\nb")], "it must be a name without '<', '>' and line breaks"),
    "twice": ([_tool(), _tool(name="g"), _tool()], "tools[2].function.name is 'f', as in tools[0]; names are unique"),
    "description": ([_tool(description=5)], "tools[0].function.description is 5; it must be a text"),
    "parameters": ([_tool(parameters=[])], "tools[0].function.parameters is []; it must be a dict"),
    "parameters of a list": (
        [_tool(parameters={"type": "array"})],
        "function.parameters.type is 'array'; it must be 'object'",
    ),
    "properties": ([_tool(parameters={"properties": []})], "function.parameters.properties is []; it must be a dict"),
    "name of a property": ([_tool(parameters={"properties": {"a\n": {}}})], "properties key is 'a\\n'"),
    "not JSON": (
        [_tool(parameters={"default": {1}})],
        "tools[0].function.parameters.default is {1}; it must be a JSON value",
    ),
}


@pytest.mark.parametrize(("tools", "message"), BAD_TOOLS.values(), ids=BAD_TOOLS)
def test_bad_tools(tools: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        render([USER], tools)
    assert message in str(caught.value)


def test_refusals_of_the_official_template_name_it() -> None:
    from ingot.prompt import ChatTemplate
    from tests.prompt.official import TEMPLATES

    template = ChatTemplate(TEMPLATES["4B_9B"], "chat_template.jinja")
    with pytest.raises(ValueError, match=r"chat_template\.jinja does not accept these messages: No user query found"):
        render([{"role": "assistant", "content": "hi"}], template=template)
    with pytest.raises(ValueError, match="System message must be at the beginning"):
        render([USER, {"role": "system", "content": "x"}], template=template)
