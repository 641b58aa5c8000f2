"""OpenAI-style messages and tools, checked and brought to the one form that chat templates take.

Out: role is system, user, assistant or tool; content is a str, or a list of parts where there are pictures; the
arguments of tool calls are dicts; reasoning is in both `reasoning_content` and `reasoning`; cache breakpoints are left
out. The caller's objects are copied, never changed. Errors name the place: `messages[2].tool_calls[0].function.name`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ingot.prompt.breakpoints import without_breakpoint
from ingot.prompt.outside_text import check_unicode
from ingot.spec.text_file import shown

_FIELDS = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "reasoning", "reasoning_content", "tool_calls"},
    "tool": {"role", "content", "name", "tool_call_id"},
}
# OpenAI's responses carry these in assistant messages; empty ones may come back, and nothing is lost with them.
_EMPTY_ASSISTANT_FIELDS = {"annotations", "audio", "function_call", "refusal"}
_MEDIA_FIELDS = {
    "image": {"type", "image", "max_pixels"},
    "image_url": {"type", "image_url"},
    "video": {"type", "video", "fps", "max_pixels", "max_frames"},
    "video_url": {"type", "video_url"},
}
_LOW_DETAIL = 512 * 512  # pixels of an image_url with detail "low": as OpenAI has it
_PLACE_LIMIT = 200  # characters of a place, about (taste)
_DEPTH_LIMIT = 100  # taste: far deeper than any schema or argument, far from Python's recursion limit


@dataclass(frozen=True)
class Medium:
    """A picture ("image") or "video" as a message gives it: what it comes from, and where, for errors."""

    kind: str
    source: Any
    where: str
    max_pixels: int | None = None
    fps: float | None = None
    max_frames: int | None = None


def take_media(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[Medium]]:
    """Normalised messages whose pictures are bare parts {"type": "image"}, as templates want them, and the pictures."""
    media: list[Medium] = []

    def bare(part: Any) -> Any:
        if not isinstance(part, Medium):
            return part
        media.append(part)
        return {"type": part.kind}

    normal = [dict(message) for message in messages]
    for message in normal:
        if isinstance(message["content"], list):
            message["content"] = [bare(part) for part in message["content"]]
    return normal, media


def normalise_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A checked copy of `messages` for a chat template; ValueError naming the message, the field and the rule."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(
            f"messages is a {type(messages).__name__}; it must be a list of messages.\n"
            'hint: [{"role": "user", "content": "..."}]'
        )
    if not messages:
        raise ValueError("messages is empty; a conversation has at least one message.")
    normal = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    if normal[0]["role"] == "tool":
        raise ValueError(
            "messages[0] has the role 'tool'; a tool result must follow an assistant message that calls it."
        )
    return normal


def normalise_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """A checked copy of `tools` (OpenAI function definitions, order kept), None for none; ValueError with the rule."""
    if tools is None:
        return None
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise ValueError(f"tools is a {type(tools).__name__}; it must be a list of function definitions or None.")
    normal = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    first: dict[str, int] = {}
    for index, tool in enumerate(normal):
        name = tool["function"]["name"]
        if first.setdefault(name, index) != index:
            raise ValueError(
                f"tools[{index}].function.name is {shown(name)}, as in tools[{first[name]}]; names are unique."
            )
    return normal or None


def _message(message: Any, where: str) -> dict[str, Any]:
    fields = without_breakpoint(_mapping(message, where), where)
    role = fields.get("role")
    if role == "developer":
        role = "system"
    if not isinstance(role, str) or role not in _FIELDS:
        _wrong(f"{where}.role", fields.get("role"), "system, developer, user, assistant or tool")
    normal: dict[str, Any] = {"role": role, "content": _content(fields, role, where)}
    for key, value in fields.items():
        if role == "assistant" and key in _EMPTY_ASSISTANT_FIELDS:
            if value:
                raise ValueError(f"{where}.{key} is {shown(value)}; Ingot takes it only empty.")
        elif key not in _FIELDS[role]:
            _unknown(where, key, _FIELDS[role], f"a message with the role {role!r}")
        elif key in ("name", "tool_call_id") and value is not None:
            normal[key] = _text(value, f"{where}.{key}")
    reasoning = _reasoning(fields, where)
    if reasoning is not None:
        normal["reasoning_content"] = normal["reasoning"] = reasoning
    if fields.get("tool_calls"):
        normal["tool_calls"] = _tool_calls(fields["tool_calls"], f"{where}.tool_calls")
    return normal


def _content(message: Mapping[str, Any], role: str, where: str) -> str | list[Any]:
    """A text; or, where there are pictures, a list of text parts and `Medium`s."""
    content = message.get("content")
    where = f"{where}.content"
    if content is None:
        if role in ("assistant", "tool"):  # a call without words; a function that returns nothing
            return ""
        _wrong(where, None, f"a text or a list of parts in a message with the role {role!r}")
    if isinstance(content, (list, tuple)):
        parts = [_part(part, f"{where}[{index}]") for index, part in enumerate(content)]
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
        return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    if not isinstance(content, str):
        _wrong(where, content, "a text, a list of parts or None")
    return _text(content, where)


def _part(part: Any, where: str) -> Any:
    """The text of a part, or its `Medium`."""
    fields = without_breakpoint(_mapping(part, where), where)
    named = next((name for name in _MEDIA_FIELDS if name in fields), None)
    kind = fields.get("type", named or "text")
    if kind in _MEDIA_FIELDS:
        return _medium(fields, kind, where)
    if kind != "text":
        _wrong(f"{where}.type", kind, "'text', 'image', 'image_url', 'video' or 'video_url'")
    for key in fields:
        if key not in ("type", "text"):
            _unknown(where, key, ("type", "text"), "a text part")
    return _text(fields.get("text"), f"{where}.text")


def _medium(fields: Mapping[str, Any], kind: str, where: str) -> Medium:
    for key in fields:
        if key not in _MEDIA_FIELDS[kind]:
            _unknown(where, key, _MEDIA_FIELDS[kind], f"a part of type {kind!r}")
    source, where = fields.get(kind), f"{where}.{kind}"
    max_pixels, fps = fields.get("max_pixels"), fields.get("fps")
    if kind.endswith("_url") and isinstance(source, Mapping):
        for key in source:
            if key not in ("url", "detail"):
                _unknown(where, key, ("url", "detail"), f"an {kind}")
        detail = source.get("detail", "auto")
        if detail not in ("auto", "high", "low"):
            _wrong(f"{where}.detail", detail, "'auto', 'high' or 'low'")
        max_pixels = _LOW_DETAIL if detail == "low" else None
        source, where = source.get("url"), f"{where}.url"
    if source is None:
        _wrong(where, source, "a path, a data: URL, bytes or pixels")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < math.inf):
        _wrong(f"{where}.fps", fps, "a positive number of frames a second")
    return Medium(kind.removesuffix("_url"), source, where, max_pixels, fps, fields.get("max_frames"))


def _reasoning(message: Mapping[str, Any], where: str) -> str | None:
    found = {key: message[key] for key in ("reasoning_content", "reasoning") if message.get(key) is not None}
    texts = {_text(value, f"{where}.{key}") for key, value in found.items()}
    if len(texts) > 1:
        raise ValueError(f"{where} has reasoning and reasoning_content that differ; give one of them.")
    return texts.pop() if texts else None


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, (list, tuple)):
        _wrong(where, calls, "a list of tool calls")
    return [_tool_call(call, f"{where}[{index}]") for index, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    fields = _mapping(call, where)
    for key in fields:
        if key not in ("id", "type", "function", "index"):  # index: left over from a joined stream
            _unknown(where, key, ("id", "type", "function"), "a tool call")
    if fields.get("type", "function") != "function":
        _wrong(f"{where}.type", fields["type"], "'function'")
    function = _mapping(fields.get("function"), f"{where}.function")
    for key in function:
        if key not in ("name", "arguments"):
            _unknown(f"{where}.function", key, ("name", "arguments"), "the function of a tool call")
    normal: dict[str, Any] = {"type": "function"}
    if fields.get("id") is not None:
        normal["id"] = _text(fields["id"], f"{where}.id")
    normal["function"] = {
        "name": _wire_name(function.get("name"), f"{where}.function.name"),
        "arguments": _arguments(function.get("arguments"), f"{where}.function.arguments"),
    }
    return normal


def _arguments(arguments: Any, where: str) -> dict[str, Any]:
    """The arguments of a call as a dict: templates need a mapping, OpenAI's clients send JSON text."""
    if isinstance(arguments, str):
        arguments = _parse_arguments(arguments, where)
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        _wrong(where, arguments, "a JSON object (as text or as a dict)")
    for name in arguments:
        _wire_name(name, f"{where} key")
    copied: dict[str, Any] = _json_value(arguments, where)
    return copied


def _parse_arguments(text: str, where: str) -> Any:
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON ({error}): {shown(text)}.") from error


def _tool(tool: Any, where: str) -> dict[str, Any]:
    fields = without_breakpoint(_mapping(tool, where), where)
    if fields.get("type") != "function":
        _wrong(f"{where}.type", fields.get("type"), "'function', with the definition under 'function'")
    definition = without_breakpoint(_mapping(fields.get("function"), f"{where}.function"), f"{where}.function")
    _wire_name(definition.get("name"), f"{where}.function.name")
    if definition.get("description") is not None:
        _text(definition["description"], f"{where}.function.description")
    if definition.get("parameters") is not None:
        _check_parameters(definition["parameters"], f"{where}.function.parameters")
    copied: dict[str, Any] = _json_value({**fields, "function": definition}, where)
    return copied


def _check_parameters(schema: Any, where: str) -> None:
    fields = _mapping(schema, where)
    if fields.get("type", "object") != "object":
        _wrong(f"{where}.type", fields["type"], "'object'")
    for name in _mapping(fields.get("properties", {}), f"{where}.properties"):
        _wire_name(name, f"{where}.properties key")


def _wire_name(name: Any, where: str) -> str:
    """A function or parameter name that `<function=NAME>` and `<parameter=NAME>` can carry."""
    text = _text(name, where)
    if not text.strip() or any(character in text for character in "<>\r\n"):
        _wrong(where, text, "a name without '<', '>' and line breaks")
    return text


def _json_value(value: Any, where: str, depth: int = 0) -> Any:
    """A deep copy of a JSON value; tuples become lists. ValueError for anything that JSON cannot say."""
    if depth > _DEPTH_LIMIT:
        raise ValueError(f"{where} nests more than {_DEPTH_LIMIT} levels deep.")
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, float) and not math.isfinite(value):
        _wrong(where, value, "a finite number")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {
            _text(key, f"{where} key"): _json_value(item, _inside(where, f".{_step(key)}"), depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_json_value(item, _inside(where, f"[{index}]"), depth + 1) for index, item in enumerate(value)]
    return _wrong(where, value, "a JSON value")


def _inside(where: str, step: str) -> str:
    """A place inside `where`, which a hostile value can make long."""
    return where + step if len(where) < _PLACE_LIMIT else where.removesuffix("...") + "..."


def _step(key: str) -> str:
    """A key in the name of a place: a hostile one may be long or hold line breaks."""
    return key if len(key) <= 40 and key.isprintable() else shown(key)[:40]


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        _wrong(where, value, "a dict")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        _wrong(where, value, "a text")
    check_unicode(value, where)
    return str(value)


def _unknown(where: str, key: Any, known: Collection[str], what: str) -> NoReturn:
    raise ValueError(f"{where} has the unknown field {shown(key)}; {what} may have {', '.join(sorted(known))}.")


def _wrong(where: str, value: Any, rule: str) -> NoReturn:
    raise ValueError(f"{where} is {shown(value)}; it must be {rule}.")
