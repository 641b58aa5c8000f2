"""From parameter text to JSON by schema; the same value whether it streamed or not."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ingot.prompt.tool_arguments import ParameterTypes
from tests.prompt.parsing import calls, parse, tool

INTEGER, NUMBER, BOOLEAN = {"type": "integer"}, {"type": "number"}, {"type": "boolean"}
STRING, OBJECT, ARRAY = {"type": "string"}, {"type": "object"}, {"type": "array"}
RECORDS = {"type": "array", "items": {"type": "object"}}

CASES: list[tuple[dict[str, Any] | bool, str, Any]] = [
    (STRING, "null", "null"),
    (STRING, "5", "5"),
    (STRING, " spaced ", " spaced "),
    (STRING, '{"a": 1}', '{"a": 1}'),
    (INTEGER, "5", 5),
    (INTEGER, " -5\n", -5),
    (INTEGER, "+5", 5),
    (INTEGER, "007", 7),
    (INTEGER, "9223372036854775808", 9223372036854775808),
    (INTEGER, "3.0", 3),
    (INTEGER, "3.5", "3.5"),
    (INTEGER, "1e3", 1000),
    (INTEGER, "1e20", "1e20"),  # a float that is an integer beyond 2**53 is not the integer that was meant
    (INTEGER, "five", "five"),
    (INTEGER, "１２", "１２"),
    (INTEGER, "1_000", "1_000"),
    (INTEGER, "9" * 5000, "9" * 5000),
    (INTEGER, "true", "true"),
    (INTEGER, "", ""),
    (NUMBER, "123000", 123000),
    (NUMBER, "1.23e5", 123000.0),
    (NUMBER, ".5", 0.5),
    (NUMBER, "-1.", -1.0),
    (NUMBER, "NaN", "NaN"),
    (NUMBER, "1e999", "1e999"),
    (BOOLEAN, "true", True),
    (BOOLEAN, "False", False),
    (BOOLEAN, "TRUE", True),
    (BOOLEAN, "yes", "yes"),
    (BOOLEAN, "1", "1"),
    ({"type": "null"}, "None", None),
    (OBJECT, '{"a": [1, null]}', {"a": [1, None]}),
    (OBJECT, "{'a': True, 'b': None}", {"a": True, "b": None}),
    (OBJECT, "[1]", "[1]"),
    (OBJECT, '{"a": NaN}', '{"a": NaN}'),
    (OBJECT, "{1, 2}", "{1, 2}"),
    (OBJECT, "__import__('os')", "__import__('os')"),
    (OBJECT, "{", "{"),
    ({"properties": {"x": INTEGER}}, '{"x": 1}', {"x": 1}),
    (ARRAY, "[1, 'a']", [1, "a"]),
    (ARRAY, "(1, 2)", [1, 2]),
    (ARRAY, "a, b", "a, b"),
    (ARRAY, "[" * 5000, "[" * 5000),
    (ARRAY, "[" * 150 + "]" * 150, "[" * 150 + "]" * 150),
    (RECORDS, '[{"type": "json", "onlyMainContent": True}]', [{"type": "json", "onlyMainContent": True}]),
    ({"items": STRING}, '["a"]', ["a"]),
    ({"enum": ["a", "b"]}, "a", "a"),
    ({"enum": ["1", 1]}, "1", "1"),
    ({"enum": [1, 2.5, True, None]}, "2.5", 2.5),
    ({"enum": [1, 2.5, True, None]}, "True", True),
    ({"enum": [1, 2.5, True, None]}, "null", None),
    ({"type": "integer", "enum": [1, 2]}, "3", 3),
    ({"type": "string", "enum": ["a", 1]}, "1", 1),
    ({"const": 5}, "5", 5),
    ({"type": ["string", "null"]}, "null", None),
    ({"type": ["string", "null"]}, "nullable", "nullable"),
    ({"type": ["string", "integer"]}, "5", 5),
    ({"type": ["integer", "string"]}, "5a", "5a"),
    ({"type": "integer", "nullable": True}, "None", None),
    ({"anyOf": [STRING, INTEGER, {"type": "null"}]}, "5", 5),
    ({"anyOf": [{"enum": ["auto"]}, INTEGER]}, "auto", "auto"),
    ({"oneOf": [OBJECT, ARRAY]}, "[1]", [1]),
    ({"allOf": [INTEGER, {"minimum": 3}]}, "5", 5),
    ({"$ref": "#/$defs/count"}, "5", 5),
    ({"$ref": "#/$defs/a~1b"}, "5", 5),
    ({"$ref": "#/$defs/loop"}, "5", 5),
    ({"$ref": "#/$defs/missing"}, "5", "5"),
    ({"$ref": "https://example.org/schema"}, "5", "5"),
    ({"description": "no type"}, "5", "5"),
    ({}, "5", "5"),
    (True, "5", "5"),
    ({"type": "float32"}, "5", "5"),
    ({"type": 5}, "5", "5"),
    ({"enum": "abc"}, "a", "a"),
    ({"anyOf": STRING}, "a", "a"),
]
DEFINITIONS = {
    "count": INTEGER,
    "a/b": INTEGER,
    "loop": {"anyOf": [{"$ref": "#/$defs/loop"}, {"$ref": "#/$defs/loop"}, INTEGER]},
}


def _parsed(text: str, schema: Any, cuts: range = range(0)) -> Any:
    definition = tool("f", x=schema)
    definition["function"]["parameters"]["$defs"] = DEFINITIONS
    output = f"<tool_call>\n<function=f>\n<parameter=x>\n{text}\n</parameter>\n</function>\n</tool_call>"
    ((_, arguments),) = calls(parse(output, tools=[definition], cuts=cuts))
    return arguments["x"]


@pytest.mark.parametrize(
    ("schema", "text", "value"), CASES, ids=[f"{i}-{case[1][:12]}" for i, case in enumerate(CASES)]
)
def test_value_by_schema(schema: Any, text: str, value: Any) -> None:
    found = _parsed(text, schema)
    assert found == value
    assert type(found) is type(value)
    assert json.dumps(_parsed(text, schema, range(10_000))) == json.dumps(value)


def test_undeclared_parameters_follow_additional_properties() -> None:
    definition = tool("f")
    output = "<tool_call><function=f><parameter=n>5</parameter></function></tool_call>"
    assert calls(parse(output, tools=[definition])) == [("f", {"n": "5"})]
    definition["function"]["parameters"]["additionalProperties"] = INTEGER
    assert calls(parse(output, tools=[definition])) == [("f", {"n": 5})]
    definition["function"]["parameters"]["additionalProperties"] = False
    assert calls(parse(output, tools=[definition])) == [("f", {"n": "5"})]


def test_references_that_fan_out_end() -> None:
    names = [f"d{number}" for number in range(40)]
    definitions = {name: {"anyOf": [{"$ref": f"#/$defs/{other}"} for other in names]} for name in names}
    definition = tool("f", x={"$ref": "#/$defs/d0"})
    definition["function"]["parameters"]["$defs"] = definitions
    output = "<tool_call><function=f><parameter=x>5</parameter></function></tool_call>"
    assert calls(parse(output, tools=[definition])) == [("f", {"x": "5"})]


def test_no_value_is_not_a_number() -> None:
    assert not any(isinstance(value, float) and not math.isfinite(value) for _, _, value in CASES)


def test_a_schema_whose_references_never_end() -> None:
    """A chain of references longer than Python's stack: the value stays a text."""
    chain = {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(5000)}
    types = ParameterTypes({"properties": {"x": {"$ref": "#/$defs/0"}}, "$defs": chain})
    assert types.value("x", "5") == "5"
