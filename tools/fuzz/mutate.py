"""New inputs from old ones: damaged bytes, changed JSON, tokens of the format, pieces of other inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

LIMIT = 1 << 16  # bytes
NUMBERS = (
    *(-1, 0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**53),
    *(2**63 - 1, 2**63, 2**64 - 1, 10**30, 10**400),
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    "",
    "\n",
    "\udc80",
    "a" * 5000,
    [],
    {},
    [[]],
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
)
_JSON_LIMIT = 20_000  # bytes; larger sections are damaged as bytes only


class Mutator:
    """Makes inputs with `random`; `tokens` are words of the format."""

    def __init__(self, random: Random, tokens: Sequence[bytes]) -> None:
        self.random, self.tokens = random, [*tokens, b"\xff", b"\0", b"\xef\xbb\xbf", b"\xed\xb0\x80"]

    def mutated(self, part: bytes, other: bytes) -> bytes:
        """`part` after one change; `other` is a part of another input. A first line `@name` stays as it is."""
        if part.startswith(b"@") and b"\n" in part and self.random.random() < 0.98:
            head, line_end, body = part.partition(b"\n")
            return head + line_end + self.mutated(body, other.partition(b"\n")[2])
        if len(part) < _JSON_LIMIT and part[:1] in (b"{", b"[") and self.random.random() < 0.7:
            try:
                return self._json(json.loads(part), part)
            except (ValueError, RecursionError):
                pass
        change = self.random.choice((self._flip, self._overwrite, self._insert, self._delete, self._repeat, self._cut,
                                     self._number, self._token, self._token))  # fmt: skip
        return self._splice(part, other) if self.random.random() < 0.1 else change(part)

    def _place(self, part: bytes) -> int:
        return self.random.randrange(len(part) + 1)

    def _span(self, part: bytes) -> tuple[int, int]:
        begin = self._place(part)
        return begin, min(len(part), begin + self.random.choice((1, 2, 4, 8, 64, 1024)))

    def _flip(self, part: bytes) -> bytes:
        if not part:
            return b"\x01"
        changed, at = bytearray(part), self.random.randrange(len(part))
        changed[at] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def _overwrite(self, part: bytes) -> bytes:
        begin, end = self._span(part)
        return part[:begin] + self.random.randbytes(end - begin) + part[end:]

    def _insert(self, part: bytes) -> bytes:
        at = self._place(part)
        return part[:at] + self.random.randbytes(self.random.choice((1, 2, 4, 8))) + part[at:]

    def _delete(self, part: bytes) -> bytes:
        begin, end = self._span(part)
        return part[:begin] + part[end:]

    def _repeat(self, part: bytes) -> bytes:
        begin, end = self._span(part)
        times = self.random.choice((2, 3, 17, 300))
        return part[:begin] + part[begin:end] * min(times, LIMIT // (end - begin + 1)) + part[end:]

    def _cut(self, part: bytes) -> bytes:
        return part[: self._place(part)]

    def _number(self, part: bytes) -> bytes:
        size, at = self.random.choice((1, 2, 4, 8)), self._place(part)
        value = self.random.choice(NUMBERS) % (1 << 8 * size)
        return part[:at] + value.to_bytes(size, self.random.choice(("little", "big"))) + part[at + size :]

    def _token(self, part: bytes) -> bytes:
        at, token = self._place(part), self.random.choice(self.tokens)
        return part[:at] + token + part[at + (len(token) if self.random.random() < 0.3 else 0) :]

    def _splice(self, part: bytes, other: bytes) -> bytes:
        return part[: self._place(part)] + other[self._place(other) :]

    def _json(self, value: Any, part: bytes) -> bytes:
        places = [*_places(value)]
        if not places:
            return json.dumps(self._value()).encode("utf-8", "surrogatepass")
        container, key = self.random.choice(places)
        what = self.random.randrange(6)
        if what == 0:
            del container[key]
        elif what == 1:
            container[key] = self._nested(container[key])
        elif what == 2:
            other, name = self.random.choice(places)
            container[key] = other.get(name) if isinstance(other, dict) else (other[name : name + 1] or [None])[0]
        elif what == 3 and isinstance(container, dict):
            container[self._name()] = container.pop(key)
        elif what == 4 and isinstance(container, list):
            container[key:key] = [container[key]] * self.random.choice((1, 2, 40))
        else:
            container[key] = self._value()
        try:
            text = json.dumps(value, ensure_ascii=self.random.random() < 0.8)
        except (ValueError, RecursionError):  # it holds itself now
            return part
        if self.random.random() < 0.05:
            text = text.replace(",", f", {json.dumps(str(key))}: 1,", 1)  # perhaps a repeated key
        return text.encode("utf-8", "surrogatepass")

    def _nested(self, value: Any) -> Any:
        for _ in range(self.random.choice((1, 2, 150))):
            value = [value] if self.random.random() < 0.5 else {"a": value}
        return value

    def _name(self) -> str:
        return self.random.choice(self.tokens).decode("utf-8", "replace")

    def _value(self) -> Any:
        kind = self.random.randrange(4)
        if kind == 0:
            return self.random.choice(VALUES)
        if kind == 1:
            return self._name()
        number = self.random.choice(NUMBERS)
        return -number if kind == 2 and self.random.random() < 0.2 else number


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < 4000:
        current = waiting.pop()
        inner = (
            current.items() if isinstance(current, dict) else enumerate(current) if isinstance(current, list) else ()
        )
        for key, item in inner:
            found.append((current, key))
            waiting.append(item)
    return found
