"""The compiled tokenizer gives the library's ids, for every text."""

from __future__ import annotations

import json
import random
from functools import lru_cache

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.prompt import Tokenizer, qwen_tokenizer
from ingot.prompt.compiled import CompiledTokenizer, compiled, merged
from tests.prompt import official
from tests.prompt.small_tokenizer import small_merges, small_vocab

KINDS = ["small", "official"]
PIECES = [
    "<|im_end|>",
    "<think>",
    "</think",
    "hello",
    " world",
    "\n",
    "\n\n",
    "  ",
    "é",
    "e\u0301",
    "中文字",
    "नमस्ते",
    "'s",
    "42",
    "🙂",
]


@lru_cache
def pair(kind: str) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizer on the library, and compiled."""
    whole = official.tokenizer() if kind == "official" else Tokenizer(qwen_tokenizer(small_vocab(), small_merges()))
    tables = whole.tables()
    assert tables is not None
    return whole, Tokenizer(CompiledTokenizer({name: memoryview(table) for name, table in tables.items()}))


def same(kind: str, text: str) -> None:
    whole, ours = pair(kind)
    for special in (True, False):
        assert ours.encode(text, special) == whole.encode(text, special)
    ids = whole.encode(text)
    assert ours.decode(ids) == whole.decode(ids)


@settings(max_examples=300)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    for kind in KINDS:
        same(kind, text)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_control_tokens_and_scripts_side_by_side(text: str) -> None:
    for kind in KINDS:
        same(kind, text)


@pytest.mark.parametrize("name", ["small", "utf8", "mixed"])
def test_official_vectors(name: str) -> None:
    for text, _, _ in official.vectors(name):
        same("official", text)


def test_long_words() -> None:
    """One word to the pattern, so merging sees all of it at once."""
    draw = random.Random(0)
    same("official", "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(5000)))
    same("official", "".join(draw.choice("etaoinshrdlu") for _ in range(20_000)))
    same("official", "a" * 9999)


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_found_by_id_and_by_name(kind: str) -> None:
    whole, ours = pair(kind)
    assert ours.vocab_size == whole.vocab_size
    assert ours.special_ids == whole.special_ids
    assert ours.stop_ids() == whole.stop_ids()
    ids = [*range(0, whole.vocab_size, 1 if kind == "small" else 97), whole.vocab_size - 1, whole.vocab_size + 5]
    assert [ours.bytes_of([i]) for i in ids] == [whole.bytes_of([i]) for i in ids]
    names = [whole._library.id_to_token(i) for i in ids if i < whole.vocab_size]
    assert [ours.token_id(name) for name in names] == [whole.token_id(name) for name in names]
    for unknown in ("", "no such token", "\uffff" * 3):
        assert not ours.has_token(unknown)


def test_merging_takes_the_lowest_rank_then_the_leftmost() -> None:
    a, b, c, ab, bc, aa = 1, 2, 3, 4, 5, 6
    rules = {(b, c): (0, bc), (a, b): (1, ab), (a, a): (2, aa)}
    table = sorted((left << 32 | right, rank << 32 | made) for (left, right), (rank, made) in rules.items())
    pairs, merges = [key for key, _ in table], [value for _, value in table]
    for word, expected in [((a, b, c), [a, bc]), ((a, b, a, b), [ab, ab]), ((a, a, a), [aa, a]), ((c, a), [c, a])]:
        assert merged(word, pairs, merges) == expected


def spoilt(**changes: object) -> tokenizers.Tokenizer:
    rules = json.loads(qwen_tokenizer(small_vocab(), small_merges()).to_str())
    for key, value in changes.items():
        (rules if key in rules else rules["model"])[key] = value
    return tokenizers.Tokenizer.from_str(json.dumps(rules))


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.5},
        {"ignore_merges": True},
        {"byte_fallback": True},
        {"unk_token": "a"},
        {"end_of_word_suffix": "</w>", "merges": []},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"vocab": {**small_vocab(), "far": 9999}},
        {"vocab": {"a": 0}, "merges": []},
    ],
    ids=str,
)
def test_what_merging_here_does_not_know_is_left_to_the_library(changes: dict[str, object]) -> None:
    assert compiled(spoilt()) is not None
    assert compiled(spoilt(**changes)) is None
