"""What each field of a request may be. A field that is not in an endpoint's table is refused by name: nothing that a
client asks for is dropped in silence. null counts as absent, as in OpenAI's schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from ingot.options import MOST_LOGPROBS, SAMPLING
from ingot.prompt.outside_text import check_unicode
from ingot.serve.errors import ApiError, bad
from ingot.serve.limits import most
from ingot.spec.text_file import shown

Check = Callable[[str, Any], Any]  # (the field's name, its value) -> the value; ApiError


def checked(body: Mapping[str, Any], table: Mapping[str, Check], inside: str = "") -> dict[str, Any]:
    """The fields of a request (or of its field `inside.`) that are given, each checked by its row of `table`."""
    given = {name: value for name, value in body.items() if value is not None}
    return {name: _row(table, name, inside)(inside + name, value) for name, value in given.items()}


def _row(table: Mapping[str, Check], name: str, inside: str) -> Check:
    if name in table:
        return table[name]
    param = inside + (name if len(name) <= 80 else name[:77] + "...")
    if name in UNSUPPORTED:
        raise bad(f"{param} is not supported by this server; {UNSUPPORTED[name]}", param, "unsupported_parameter")
    close = get_close_matches(name[:80], table, n=1)
    known = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(table))}"
    raise bad(f"there is no field {shown(param)} here; {known}", param, "unknown_parameter")


def any_value(name: str, value: Any) -> Any:
    """Checked where it is used, by the engine's own sentence."""
    return value


def text(name: str, value: Any) -> str:
    """A short text."""
    return _text(name, value, most("text"))


def long_text(name: str, value: Any) -> str:
    """A text of any length that the body allows."""
    return _text(name, value, most("body"))


def flag(name: str, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def count(name: str, value: Any) -> int:
    """A whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(name, value, "a whole number, 1 or more")
    return value


def whole(name: str, value: Any) -> int:
    """A whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, value, "a whole number")
    return value


def priority(name: str, value: Any) -> int:
    """A whole number, lower goes first."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > most("priority"):
        raise _wrong(name, value, f"a whole number from {-most('priority')} to {most('priority')}")
    return value


def logprobs(name: str, value: Any) -> int:
    """How many likely tokens a completion tells at each place."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_LOGPROBS:
        raise _wrong(name, value, f"a whole number from 0 to {MOST_LOGPROBS}")
    return value


def only(*allowed: Any, because: str) -> Check:
    """Nothing but the `allowed` values, for the reason given."""

    def check(name: str, value: Any) -> Any:
        if not any(value is one or (type(value) is type(one) and value == one) for one in allowed):
            choice = " or ".join(map(shown, allowed))
            raise bad(f"{name} is {shown(value)}; {choice} is allowed: {because}", name, "unsupported_value")
        return value

    return check


def several(kind: type, limit: str) -> Check:
    """A list of at most most(limit) values of one kind."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, list) or any(type(item) is not kind for item in value):
            raise _wrong(name, value, f"a list of {'whole numbers' if kind is int else 'texts'}")
        return _bounded(name, value, limit)

    return check


def mapping(name: str, value: Any) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise _wrong(name, value, "an object")
    return value


def objects(limit: str) -> Check:
    """A list of at most most(limit) objects."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, list):
            raise _wrong(name, value, "a list")
        for place, item in enumerate(value):
            mapping(f"{name}[{place}]", item)
        return _bounded(name, value, limit)

    return check


def stop(name: str, value: Any) -> Any:
    """Stop strings: their number and kind are checked by the engine's rules, their length here."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) and len(one) > most("stop"):
            raise bad(f"{name} holds a text of {len(one):,} characters; {most('stop'):,} are the most", name)
    return value


def breakers(name: str, value: Any) -> Any:
    """Texts over which DRY sees no repetition."""
    return stop(name, several(str, "breakers")(name, value))


def bias(name: str, value: Any) -> Any:
    """Token ids to numbers."""
    return _bounded(name, mapping(name, value), "ids")


def stream_options(name: str, value: Any) -> dict[str, Any]:
    """{"include_usage": true}"""
    return checked(mapping(name, value), _STREAM_OPTIONS, f"{name}.")


def template_kwargs(name: str, value: Any) -> dict[str, Any]:
    """{"enable_thinking": true}"""
    return checked(mapping(name, value), {"enable_thinking": flag, "preserve_thinking": flag}, f"{name}.")


def debug(name: str, value: Any) -> dict[str, Any]:
    """{"cache": true}"""
    return checked(mapping(name, value), {"cache": flag}, f"{name}.")


def cache_options(name: str, value: Any) -> dict[str, Any]:
    """{"mode": "explicit", "ttl": "30m"}: OpenAI's. Neither is needed: what stays is decided by use."""
    modes, lifetimes = only("implicit", "explicit", because=_BY_USE), only("30m", "12h", because=_BY_USE)
    return checked(mapping(name, value), {"mode": modes, "ttl": lifetimes}, f"{name}.")


def response_format(name: str, value: Any) -> dict[str, Any]:
    """{"type": "text"}"""
    return checked(mapping(name, value), {"type": only("text", because=_NO_GRAMMAR)}, f"{name}.")


_NO_GRAMMAR = "answers are not held to a grammar yet"
_STREAM_OPTIONS: dict[str, Check] = {
    "include_usage": flag,
    "include_obfuscation": only(False, because="answers are sent as they are"),
}
_BY_USE = "OpenAI has no other; what the prefix cache keeps is decided by use"
_ALONE = "there is one model and one class of service"
# Accepted because leaving them out changes no answer.
HARMLESS: dict[str, Check] = {
    "user": text,
    "safety_identifier": text,
    "prompt_cache_key": text,
    "prompt_cache_options": cache_options,
    "prompt_cache_retention": only("in_memory", "24h", because=_BY_USE),
    "metadata": mapping,
    "store": only(False, because="nothing is stored"),
    "service_tier": only("auto", "default", because=_ALONE),
    "id_slot": whole,  # llama.cpp's: which of its states is to be used
}
SHARED: dict[str, Check] = {
    **dict.fromkeys(SAMPLING, any_value),
    **HARMLESS,
    "model": text,
    "n": any_value,
    "priority": priority,
    "max_tokens": count,
    "min_tokens": any_value,
    "stop": stop,
    "stop_token_ids": several(int, "ids"),
    "ignore_eos": any_value,
    "preset": text,
    "cache_prompt": any_value,
    "cache_salt": text,
    "debug": debug,
    "dry_sequence_breakers": breakers,
    "logit_bias": bias,
    "stream": flag,
    "stream_options": stream_options,
}
CHAT: dict[str, Check] = {
    **SHARED,
    "messages": objects("messages"),
    "max_completion_tokens": count,
    "tools": objects("tools"),
    "tool_choice": only("auto", "none", because="a call cannot be forced without a grammar"),
    "parallel_tool_calls": only(True, because="the number of calls cannot be forced without a grammar"),
    "response_format": response_format,
    "logprobs": flag,
    "top_logprobs": any_value,
    "chat_template_kwargs": template_kwargs,
    "reasoning_effort": only(
        "none", because='the model thinks or not: {"chat_template_kwargs": {"enable_thinking": true}}'
    ),
    "modalities": only(["text"], because="answers are text"),
    "verbosity": only("medium", because="the model has no such setting"),
}
COMPLETION: dict[str, Check] = {
    **SHARED,
    "prompt": any_value,
    "logprobs": logprobs,
    "best_of": only(1, because="answers are not ranked; n gives several"),
    "echo": only(False, because="the prompt is not repeated; join it to the answer yourself"),
    "suffix": only("", because="the model does not fill in the middle"),
}
TOKENIZE: dict[str, Check] = {
    "model": text,
    "content": long_text,
    "prompt": long_text,
    "messages": objects("messages"),
    "tools": objects("tools"),
    "chat_template_kwargs": template_kwargs,
    "add_generation_prompt": flag,
    "add_special": flag,
    "add_special_tokens": flag,
    "parse_special": flag,
    "with_pieces": flag,
}
DETOKENIZE: dict[str, Check] = {"model": text, "tokens": several(int, "values")}
# Fields of OpenAI's schema and of other servers that clients know, and why they are refused.
UNSUPPORTED = {
    "functions": "give tools",
    "function_call": "give tool_choice",
    "audio": "answers are text",
    "prediction": "the prompt itself is where drafts come from",
    "web_search_options": "nothing is fetched",
    "moderation": "answers are not moderated",
    "grammar": _NO_GRAMMAR,
    "json_schema": _NO_GRAMMAR,
    "guided_json": _NO_GRAMMAR,
}


def _text(name: str, value: Any, longest: int) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    if len(value) > longest:
        raise bad(f"{name} has {len(value):,} characters; {longest:,} are the most", name)
    check_unicode(value, name)
    return value


def _bounded(name: str, value: Any, limit: str) -> Any:
    if len(value) > most(limit):
        raise bad(f"{name} has {len(value):,} entries; {most(limit):,} are the most", name)
    return value


def _wrong(name: str, value: Any, rule: str) -> ApiError:
    return bad(f"{name} is {shown(value)}; it must be {rule}", name)
