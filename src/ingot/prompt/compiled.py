"""A tokenizer as tables that are used where they lie: nothing is built from the vocabulary at start.

For 248,000 tokens the `tokenizers` library takes about a second to build its maps, which is longer than everything else
that a start does. Here the library still splits the text: normalisation, control tokens and the pattern are its own,
over a vocabulary of nothing but the bytes and the control tokens. Merging, the other half of byte-level BPE, is here.
"""

from __future__ import annotations

import heapq
import json
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from ingot.prompt.bpe import byte_alphabet

if TYPE_CHECKING:
    import tokenizers

VERSION = 1  # of the tables
REMEMBERED = 1 << 16  # taste: words whose ids are kept; a text has few thousand different ones
# Options of the library's BPE that change what merging does; the family has none of them.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",), "dropout": (None, 0.0), "unk_token": (None,), "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""), "byte_fallback": (None, False), "ignore_merges": (None, False),
}  # fmt: skip
_HALF = (1 << 32) - 1


class Encoded(NamedTuple):
    """What `encode` gives, as the library names it."""

    ids: list[int]


def compiled(library: tokenizers.Tokenizer) -> dict[str, bytes] | None:
    """The tables of `CompiledTokenizer`; None for a tokenizer that is more than byte-level BPE.

    rules   the library's own JSON, its vocabulary cut down to the bytes and the added tokens
    text    the tokens end to end in UTF-8, by id; token i is text[start[i]:start[i + 1]]
    order   the ids by text, to find a token
    pair    left id << 32 | right id of every merge, ascending; merge has rank << 32 | the id it makes
    """
    rules = json.loads(library.to_str())
    model = rules["model"]
    vocab, merges = model.get("vocab"), model.get("merges")
    if any(model.get(name) not in allowed for name, allowed in _PLAIN.items()) or not _is_bytes(rules["pre_tokenizer"]):
        return None
    tokens = [token.encode() for token, _ in sorted(vocab.items(), key=itemgetter(1))]
    if sorted(vocab.values()) != list(range(len(tokens))) or not vocab.keys() >= set(byte_alphabet()):
        return None
    ranked = sorted(
        (vocab[left] << 32 | vocab[right], rank << 32 | vocab[left + right])
        for rank, (left, right) in enumerate(merges)
    )
    if len({pair for pair, _ in ranked}) != len(merges):
        return None
    start = array("I", [0])
    for token in tokens:
        start.append(start[-1] + len(token))
    added = {token["content"]: token["id"] for token in rules["added_tokens"]}
    model["vocab"], model["merges"] = {c: vocab[c] for c in byte_alphabet()} | added, []
    return {
        "rules": json.dumps(rules).encode(),
        "text": b"".join(tokens),
        "start": start.tobytes(),
        "order": array("I", sorted(range(len(tokens)), key=tokens.__getitem__)).tobytes(),
        "pair": array("Q", [pair for pair, _ in ranked]).tobytes(),
        "merge": array("Q", [merge for _, merge in ranked]).tobytes(),
    }


def without_added_tokens(library: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer that shares the model, and with it the vocabulary in memory, but knows no control tokens."""
    from tokenizers import Tokenizer as LibraryTokenizer

    plain = LibraryTokenizer(library.model)
    plain.normalizer, plain.pre_tokenizer = library.normalizer, library.pre_tokenizer
    return plain


def _is_bytes(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether what reaches the vocabulary is spelt in the byte alphabet."""
    steps = [pre_tokenizer or {}]
    steps = steps[0].get("pretokenizers", steps)
    return bool(steps) and steps[-1].get("type") == "ByteLevel"


class CompiledTokenizer:
    """Has the part of `tokenizers.Tokenizer` that Ingot uses, over the tables of `compiled`, flat buffers of bytes."""

    TABLES = ("rules", "text", "start", "order", "pair", "merge")

    def __init__(self, tables: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer as LibraryTokenizer

        self._library = LibraryTokenizer.from_str(bytes(tables["rules"]).decode())
        self._text = memoryview(tables["text"])
        self._start, self._order = (memoryview(tables[name]).cast("I") for name in ("start", "order"))
        self._pair, self._merge = (memoryview(tables[name]).cast("Q") for name in ("pair", "merge"))
        self._tokens = len(self._start) - 1
        self._known: dict[tuple[int, ...], list[int]] = {}

    def encode(self, text: str, add_special_tokens: bool = False) -> Encoded:
        """The ids of `text`; nothing is added at its ends."""
        assert not add_special_tokens
        spelt = self._library.encode(text, add_special_tokens=False)  # one id a byte or control token
        ids: list[int] = []
        for _, word in groupby(zip(spelt.word_ids, spelt.ids, strict=True), itemgetter(0)):
            ids += self._merged(tuple([index for _, index in word]))
        return Encoded(ids)

    def without_added_tokens(self) -> CompiledTokenizer:
        """The same tables, with control tokens read as ordinary characters."""
        other = copy(self)
        other._library = without_added_tokens(self._library)
        return other

    def token_to_id(self, token: str) -> int | None:
        """The id of one token, or None."""
        known = self._library.token_to_id(token)
        if known is not None:
            return int(known)
        wanted = token.encode()
        at = bisect_left(self._order, wanted, key=self._bytes)
        found = at < self._tokens and self._bytes(self._order[at]) == wanted
        return self._order[at] if found else None

    def id_to_token(self, index: int) -> str | None:
        """One token, or None."""
        if 0 <= index < self._tokens:
            return self._bytes(index).decode()
        known: str | None = self._library.id_to_token(index)
        return known

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Tokens in all."""
        added = self.get_added_tokens_decoder() if with_added_tokens else {}
        return self._tokens + sum(index >= self._tokens for index in added)

    def get_added_tokens_decoder(self) -> Any:
        """Id -> added token."""
        return self._library.get_added_tokens_decoder()

    def no_truncation(self) -> None:
        """Never cut a text."""
        self._library.no_truncation()

    def no_padding(self) -> None:
        """Never add to one."""
        self._library.no_padding()

    def _bytes(self, index: int) -> bytes:
        return bytes(self._text[self._start[index] : self._start[index + 1]])

    def _merged(self, word: tuple[int, ...]) -> list[int]:
        known = self._known.get(word)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[word] = merged(word, self._pair, self._merge) if len(word) > 1 else [*word]
        return known


def merged(word: Sequence[int], pairs: Sequence[int], merges: Sequence[int]) -> list[int]:
    """The ids of one word: of all neighbours that merge, those of the lowest rank first, from the left; until none do.

    A heap of candidates, so that a word of n bytes (a sentence of Chinese is one) takes n log n steps.
    """
    ids, end = list(word), len(word)
    after, before = list(range(1, end + 1)), list(range(-1, end - 1))
    heap: list[tuple[int, int, int]] = []  # rank and result, place of the left one, the pair

    def offer(at: int) -> None:
        if at >= 0 and after[at] < end:
            pair = ids[at] << 32 | ids[after[at]]
            place = bisect_left(pairs, pair)
            if place < len(pairs) and pairs[place] == pair:
                heapq.heappush(heap, (merges[place], at, pair))

    for at in range(end):
        offer(at)
    while heap:
        merge, at, pair = heapq.heappop(heap)
        right = after[at]
        if ids[at] < 0 or right >= end or ids[at] << 32 | ids[right] != pair:
            continue  # one of the two has merged with another since
        ids[at], ids[right] = merge & _HALF, -1
        after[at] = after[right]
        if after[at] < end:
            before[after[at]] = at
        offer(before[at])
        offer(at)
    return [index for index in ids if index >= 0]
