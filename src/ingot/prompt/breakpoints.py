"""Where a client says that a prompt's reusable part ends: Anthropic's `cache_control`, OpenAI's
`prompt_cache_breakpoint`.

They stand on content parts, messages and tools, change no word of a prompt, and are left out of what templates see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ingot.spec.text_file import shown

MOST = 4  # of a request: Anthropic's and OpenAI's limit
# field -> (its key, the key's only value, the lifetimes it may name). A lifetime is read and not kept: what stays is
# decided by use.
_FIELDS = {
    "cache_control": ("type", "ephemeral", ("5m", "1h")),
    "prompt_cache_breakpoint": ("mode", "explicit", ("30m", "12h")),
}
# What no text goes on with: two renderings, one of which has it after a breakpoint, are alike up to there.
_OTHER = "\ue000\ufdd0"


def without_breakpoint(fields: Mapping[Any, Any], where: str) -> Mapping[Any, Any]:
    """A part, message or tool without its breakpoint, which is checked; ValueError with the rule."""
    found = [name for name in _FIELDS if name in fields]
    for name in found:
        if fields[name] is not None:
            _check(name, fields[name], f"{where}.{name}")
    return {key: value for key, value in fields.items() if key not in found} if found else fields


def probes(messages: Sequence[Any], tools: Sequence[Any] | None) -> Iterator[tuple[list[Any], list[Any] | None]]:
    """For each breakpoint of checked messages and tools, others that render alike up to there and not beyond.

    ValueError when there are more than four.
    """
    found = [*_after_tools(messages, tools or ()), *_after_content(messages, tools)]
    if len(found) > MOST:
        raise ValueError(f"messages and tools hold {len(found)} cache breakpoints; {MOST} are the most.")
    yield from found


def _after_tools(messages: Sequence[Any], tools: Sequence[Any]) -> Iterator[tuple[list[Any], list[Any] | None]]:
    for place, tool in enumerate(tools):
        function = tool.get("function")
        if _marked(tool) or (isinstance(function, Mapping) and _marked(function)):
            kept = list(tools[: place + 1])
            if place == len(tools) - 1:  # another one follows, where the list ended
                kept.append({"type": "function", "function": {"name": _OTHER}})
            yield list(messages), kept


def _after_content(
    messages: Sequence[Any], tools: Sequence[Any] | None
) -> Iterator[tuple[list[Any], list[Any] | None]]:
    other = {"type": "text", "text": _OTHER}
    shown_tools = None if tools is None else list(tools)
    for place, message in enumerate(messages):
        content = message.get("content")
        parts = list(content) if isinstance(content, (list, tuple)) else []
        ends = [number + 1 for number, part in enumerate(parts) if _marked(part)]
        if not parts and isinstance(content, str):
            parts = [{"type": "text", "text": content}]
        if _marked(message) and len(parts) not in ends:
            ends.append(len(parts))
        for end in ends:
            changed = {**message, "content": [*parts[:end], other, *parts[end:]]}
            yield [*messages[:place], changed, *messages[place + 1 :]], shown_tools


def _marked(fields: Mapping[str, Any]) -> bool:
    return any(fields.get(name) is not None for name in _FIELDS)


def _check(name: str, value: Any, where: str) -> None:
    key, only, lifetimes = _FIELDS[name]
    rule = f'{{"{key}": "{only}"}}, with or without a "ttl" of {" or ".join(lifetimes)}'
    if not isinstance(value, Mapping) or value.get(key) != only or not set(value) <= {key, "ttl"}:
        raise ValueError(f"{where} is {shown(value)}; it must be {rule}.")
    if value.get("ttl") is not None and value["ttl"] not in lifetimes:
        raise ValueError(f"{where} is {shown(value)}; it must be {rule}.")
