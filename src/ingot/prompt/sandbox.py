"""A jinja2 sandbox for chat templates of unknown origin, with bounds on what a template can build and on its time.

jinja2's immutable sandbox keeps a template from reaching Python; it does not keep it from running for ever or filling
memory. Here every loop turn and macro call counts as a step, and every value a template can make bigger (operators,
concatenation, literals, calls, filters, captured blocks) is measured. The reasons: docs/why/prompt-templates.md.

Not bounded but by its arguments: the time of one library call (a sort of a long list takes about a second).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import ext, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from ingot.prompt.template_growth import ITEM_SIZE, SLOW_LIMIT, comparisons, formatted, grown
from ingot.prompt.template_syntax import GenerationTag, Instrument
from ingot.spec.text_file import shown

# Characters. A million tokens of prose are about 4 million characters; no window reads eight times that.
SIZE_LIMIT = 32_000_000
# An official template takes about three steps a message; two million empty turns take one to two seconds.
STEP_LIMIT = 2_000_000
SECONDS_LIMIT = 10.0  # of this thread's processor time, so that a busy machine refuses nothing
RANGE_LIMIT = 100_000  # jinja2's own MAX_RANGE; also the largest width or count that a text method takes
MADE_LIMIT = 1 << 30  # bytes of all values together; a prompt of a million tokens passes twenty operations in 80 MB
DIGITS_LIMIT = 4096  # bits of an integer: a template counts messages
# Bits of what a range begins with, ends with and goes by: longer ones can be chosen to have one hash, and then a set of
# n of them takes n * n steps.
RANGE_BITS = 53
TIME_FORMAT_LIMIT = 1000  # characters

# Superlinear on long texts, or a different result each time; no chat template uses them.
_DROPPED_FILTERS = ("urlize", "urlencode", "striptags", "wordwrap", "pprint", "random", "xmlattr")
# They neither print nor compare what they are given: measuring it would make a loop over the messages quadratic.
_PLAIN_FILTERS = frozenset(
    ["attr", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr",
     "reverse", "select", "selectattr", "tojson"]
)  # fmt: skip
_DROPPED_GLOBALS = ("lipsum",)
_GROWING_METHODS = frozenset(["encode", "expandtabs", "maketrans", "striptags", "to_bytes", "translate", "unescape"])
# They call a test or filter for every item, which takes time though nothing may come of it.
_ITERATING_FILTERS = frozenset(["groupby", "map", "reject", "rejectattr", "select", "selectattr", "sum", "unique"])
_JSON_INDENT_LIMIT = 16
_WIDE_FORMAT = re.compile(r"\d{5,}|%[^%a-zA-Z]*\*")


class RaisedByTemplateError(TemplateError):
    """The template refused its input by raise_exception(message)."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment transformers renders chat templates in, with bounds. One instance renders one prompt at a time:
    call `begin` before each."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, seconds: float = SECONDS_LIMIT, steps: int = STEP_LIMIT, size: int = SIZE_LIMIT) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constant folding would run filters and operators while compiling, outside the bounds
            finalize=self._printed,
            extensions=[ext.loopcontrols, GenerationTag],
        )
        self._seconds, self._steps, self._size = seconds, steps, size
        self.begin()
        for name in _DROPPED_FILTERS:
            del self.filters[name]
        for name in _DROPPED_GLOBALS:
            del self.globals[name]
        self.filters = {name: self._bounded_filter(name, function) for name, function in self.filters.items()}
        self.filters["tojson"] = self._to_json
        tests: dict[str, Any] = self.tests
        self.tests = {name: self._timed(function) for name, function in tests.items()}
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now, range=_range)

    def begin(self) -> None:
        """Starts the count of steps and the clock again."""
        self._steps_left, self._made, self._looks = self._steps, 0, 0
        self._deadline = time.thread_time() + self._seconds

    def step(self) -> bool:
        """Counts one loop turn or macro call; True, so that it can stand in a condition."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise SecurityError(f"it takes more than {self._steps} loop turns and macro calls")
        self._look_at_clock()
        return True

    def _look_at_clock(self) -> None:
        self._looks += 1
        if self._looks % 16 == 0 and time.thread_time() > self._deadline:
            raise SecurityError(f"it takes more than {self._seconds:g} seconds")

    def concat(self, parts: Iterable[str]) -> str:
        """Joins the pieces of a template, macro or captured block; stops as soon as they are too long together."""
        kept: list[str] = []
        length = 0
        for part in parts:
            self._look_at_clock()
            length += len(part)
            self._require_size(length)
            kept.append(part)
        return str(self._count_made("".join(kept)))

    def tilde(self, *operands: Any) -> str:
        """The `~` operator."""
        return self.concat(str(self._bounded(operand)) for operand in operands)

    def literal(self, value: Any) -> Any:
        """A list, tuple or dict written in the template: measured, as nesting doubles what printing it takes."""
        return self._result(value)

    def part(self, value: Any) -> Any:
        """A slice: it cannot be larger than what it is cut from, but there can be many."""
        return self._count_made(value)

    def unpacked(self, value: Any) -> Any:
        """What stands behind `*` in a call: a text would become a list of its characters."""
        if isinstance(value, str):
            raise SecurityError("it calls something with the characters of a text")
        return value

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            _require_small(left, right)
        elif operator == "*":
            self._require_product(left, right)
        elif operator == "%" and isinstance(left, str):
            _check_format("format", left)
            self._require_size(formatted(left, self._measured(right)))
        return self._result(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(obj, "__self__", None) is self:  # step, tilde, literal: only our own changes to the tree reach them
            return obj(*args)
        self._look_at_clock()
        method = getattr(obj, "__wrapped__", obj)  # jinja2 wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, int)):
            if method.__name__ == "join" and args and not isinstance(args[0], str):
                args = (list(args[0]), *args[1:])
            self._check_method(method.__name__, owner, args, kwargs)
        return self._result(super().call(context, obj, *args, **kwargs))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        Instrument().generic_visit(source)
        return super()._generate(source, *args, **kwargs)

    @pass_context  # a finalize that needs the context keeps jinja2 from evaluating constants while compiling
    def _printed(self, context: Any, value: Any) -> Any:
        return self._bounded(value)

    def _result(self, value: Any) -> Any:
        """A value that an operation has made: measured, and counted with all others."""
        return self._count_made(self._bounded(value))

    def _count_made(self, value: Any) -> Any:
        self._look_at_clock()
        if isinstance(value, (str, list, tuple, dict)):
            self._made += value.__sizeof__()
            if self._made > MADE_LIMIT:
                raise SecurityError(f"it builds texts and lists of more than {MADE_LIMIT >> 20} MB together")
        return value

    def _bounded(self, value: Any) -> Any:
        self._require_size(self._measured(value))
        _require_digits(value)
        return value

    def _measured(self, value: Any) -> int:
        if isinstance(value, (str, list, tuple, dict, set, frozenset, Namespace)):
            return _size(value, self._size)
        return 0

    def _require_size(self, size: int) -> None:
        if size > self._size:
            raise SecurityError(f"it builds a text or list of more than {self._size} characters")

    def _require_product(self, left: Any, right: Any) -> None:
        for value, times in ((left, right), (right, left)):
            if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                self._require_size(_size(value, self._size) * max(times, 0))

    def _check_method(self, name: str, owner: str | int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Bounds a method of a text or number before it runs, where its result can be far larger than its input."""
        if name in _GROWING_METHODS:
            raise SecurityError(f"it calls {name}, which no chat template needs")
        _check_counts(name, args, kwargs)
        if isinstance(owner, str):
            _check_format(name, owner)
            self._bounded(args)
            self._check_growth(name, owner, [*args, *kwargs.values()])

    def _bounded_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        at = 1 if hasattr(function, "jinja_pass_arg") else 0  # context or environment first, then the value

        @wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self._look_at_clock()
            given = list(args)
            if name == "join" and not isinstance(given[at], str):
                given[at] = list(given[at])
            options = [*given[at + 1 :], *kwargs.values()]
            _check_counts(name, options, {})
            _check_format(name, given[at])
            if name not in _PLAIN_FILTERS:
                self._bounded([*given, *options])
            self._check_growth(name, given[at], options)
            if name == "sum" and any(isinstance(option, (list, tuple)) for option in options):
                raise SecurityError("it adds lists by sum, which copies them again and again")
            if name in _ITERATING_FILTERS and given[at]:
                given[at] = self._looking(given[at])
            return self._result(function(*given, **kwargs))

        return bounded

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._look_at_clock()
            return function(*args, **kwargs)

        return timed

    def _looking(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._look_at_clock()
            yield item

    def _check_growth(self, name: str, value: Any, options: list[Any]) -> None:
        self._require_size(grown(name, value, options, self._measured) or 0)
        if comparisons(name, value, options) > SLOW_LIMIT:
            raise SecurityError(f"it calls {name} on a long text with a long one")

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """transformers' tojson: plain JSON in the given order. jinja2's own escapes HTML and sorts keys."""
        self._bounded(value)
        if indent is None:
            text = json.dumps(value, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)
            return str(self._result(text))
        if not isinstance(indent, int) or not 0 <= indent <= _JSON_INDENT_LIMIT:
            raise SecurityError(f"it gives tojson an indent over {_JSON_INDENT_LIMIT}")
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return self.concat(encoder.iterencode(value))  # piece by piece: deep values make more blanks than text


def _size(value: Any, limit: int) -> int:
    """Characters in all texts inside `value`, plus ITEM_SIZE an item; stops counting above `limit` (nesting can share
    parts, so that the count, like printing, grows exponentially with the source)."""
    total, waiting = 0, [value]
    while waiting and total <= limit:
        current = waiting.pop()
        if isinstance(current, str):
            total += len(current)
        elif isinstance(current, dict):
            total += ITEM_SIZE * len(current)
            waiting.extend(current.keys())
            waiting.extend(current.values())
        elif isinstance(current, Namespace):  # printed with all it holds, as a list is
            waiting.append(current._Namespace__attrs)
        elif isinstance(current, (list, tuple, set, frozenset)):
            total += ITEM_SIZE * len(current)
            waiting.extend(current)
    return total


def _require_digits(value: Any) -> None:
    if isinstance(value, int) and value.bit_length() > DIGITS_LIMIT:
        raise SecurityError(f"it computes an integer of {value.bit_length()} bits")


def _check_counts(name: str, args: Iterable[Any], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > RANGE_LIMIT:
            raise SecurityError(f"it gives {name} the number {shown(value)}, over {RANGE_LIMIT}")


def _check_format(name: str, text: Any) -> None:
    if name in ("format", "format_map") and isinstance(text, str) and _WIDE_FORMAT.search(text):
        raise SecurityError("a text format has a width of five digits or more")


def _require_small(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > DIGITS_LIMIT:
        raise SecurityError(f"it computes {shown(base)} ** {shown(exponent)}")


def _raise_exception(message: Any) -> NoReturn:
    raise RaisedByTemplateError(str(message))


def _range(*args: int) -> range:
    if any(isinstance(value, int) and value.bit_length() > RANGE_BITS for value in args):
        raise SecurityError(f"it gives range a number of more than {RANGE_BITS} bits")
    return safe_range(*args)


def _strftime_now(format: str) -> str:
    if len(str(format)) > TIME_FORMAT_LIMIT:
        raise SecurityError(f"it gives strftime_now more than {TIME_FORMAT_LIMIT} characters")
    return datetime.now().strftime(format)
