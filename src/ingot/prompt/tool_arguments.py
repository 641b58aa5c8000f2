"""From the text of a `<parameter=...>` value to JSON, by the tool's schema; and the JSON text of a call's arguments.

The model writes texts as they are and other values as JSON or as Python prints them (the official Qwen3.5 template
shows it `True` and `None`). Only the schema tells which. A value that does not fit its schema stays a text: the
caller's validation must see what the model wrote, not something invented.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
# A union takes the first of these that the text can be; a text always can be a string, so that comes last.
_ORDER = ("null", "boolean", "integer", "number", "object", "array")
_NESTING_LIMIT = 100  # brackets open at once; Python's parser gives up near 200, C stacks later
_REFERENCES = 100  # followed one after another (taste): a schema comes from outside, and Python's stack is finite
_NO_VALUE = object()


class ParameterTypes:
    """The declared parameters of one tool. `schema` is its `parameters` object; None declares nothing."""

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        self._root = schema if isinstance(schema, Mapping) else {}
        properties = self._root.get("properties")
        self._properties = properties if isinstance(properties, Mapping) else {}
        self.declares = bool(self._properties)

    def __contains__(self, name: object) -> bool:
        return name in self._properties

    def is_text(self, name: str) -> bool:
        """Whether every value of the parameter is a string, so that it can be passed on before its end is seen."""
        return all(_is_text(kind, allowed) for kind, allowed in self._variants(name))

    def value(self, name: str, text: str) -> Any:
        """The JSON value that `text` is under the parameter's schema; `text` itself where it fits no other type."""
        variants = list(self._variants(name))
        for _, allowed in variants:
            chosen = _member(allowed, text)
            if chosen is not _NO_VALUE:
                return chosen
        kinds = {kind for kind, _ in variants}
        for kind in _ORDER:
            if kind in kinds:
                value = _CONVERT[kind](text.strip())
                if value is not _NO_VALUE:
                    return value
        return text

    def _variants(self, name: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        schema = self._properties.get(name, self._root.get("additionalProperties"))
        return _variants(schema, self._root, set())


class ArgumentsText:
    """Writes the JSON object of a call's arguments piece by piece; every method returns the piece it adds."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def name(self, name: str) -> str:
        return self._add((", " if self._pieces else "{") + _json(name) + ": ")

    def quote(self) -> str:
        return self._add('"')

    def characters(self, text: str) -> str:
        """Part of a string value: JSON escapes character by character, so parts can be escaped alone."""
        return self._add(_json(text)[1:-1])

    def value(self, value: Any) -> str:
        return self._add(_json(value))

    def end(self) -> str:
        return self._add("}" if self._pieces else "{}")

    def _add(self, piece: str) -> str:
        self._pieces.append(piece)
        return piece


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _variants(schema: Any, root: Mapping[str, Any], followed: set[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every (type, values of enum or const) a schema allows, references and unions followed; "" for no type.

    `followed` are the references already taken: schemas refer to themselves.
    """
    if not isinstance(schema, Mapping):
        return
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in followed and len(followed) < _REFERENCES:
        followed.add(reference)
        yield from _variants(_referred(reference, root), root, followed)
    for union in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(union), (list, tuple)):
            for member in schema[union]:
                yield from _variants(member, root, followed)
    allowed = (schema["const"],) if "const" in schema else schema.get("enum")
    values = tuple(allowed) if isinstance(allowed, (list, tuple)) else ()
    kinds = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "")
    for kind in kinds if isinstance(kinds, (list, tuple)) else [kinds]:
        if (isinstance(kind, str) and kind) or values:
            yield str(kind), values
    if schema.get("nullable") is True:
        yield "null", ()


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    """The part of the schema that a local JSON pointer (`#/$defs/x`) names; None when there is none."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _is_text(kind: str, allowed: tuple[Any, ...]) -> bool:
    if kind == "string":
        return all(isinstance(value, str) for value in allowed)
    return kind == "" and bool(allowed) and all(isinstance(value, str) for value in allowed)


def _member(allowed: tuple[Any, ...], text: str) -> Any:
    """The value of an enum that `text` names: the string itself, or the value whose JSON or Python text it is."""
    if text in [value for value in allowed if isinstance(value, str)]:
        return text
    others = [value for value in allowed if not isinstance(value, str)]
    for value in others:
        if text.strip() in (_json(value), str(value)):
            return value
    return _NO_VALUE


def _null(text: str) -> Any:
    return None if text.lower() in ("null", "none") else _NO_VALUE


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), _NO_VALUE)


def _integer(text: str) -> Any:
    value = _number(text)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)  # JSON Schema: 3.0 is an integer
    return value if isinstance(value, int) else _NO_VALUE


def _number(text: str) -> Any:
    try:
        if _INTEGER.fullmatch(text):
            return int(text)
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
    except ValueError:  # more digits than Python converts
        return _NO_VALUE
    return value if math.isfinite(value) else _NO_VALUE


def _object(text: str) -> Any:
    value = _structure(text)
    return value if isinstance(value, dict) else _NO_VALUE


def _array(text: str) -> Any:
    value = _structure(text)
    return value if isinstance(value, list) else _NO_VALUE


def _structure(text: str) -> Any:
    """A JSON object or array, or one as Python prints it, as JSON values."""
    if text[:1] not in ("{", "[", "(") or not _is_shallow(text):
        return _NO_VALUE
    for read in (_read_json, ast.literal_eval):
        try:
            return json.loads(json.dumps(read(text), allow_nan=False))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
    return _NO_VALUE


def _read_json(text: str) -> Any:
    return json.loads(text)


def _is_shallow(text: str) -> bool:
    depth = 0
    for character in re.findall(r"[\[{(\]})]", text):
        depth += 1 if character in "[{(" else -1
        if depth > _NESTING_LIMIT:
            return False
    return True


_CONVERT = {
    "null": _null,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "object": _object,
    "array": _array,
}
