"""Byte-pair merges from text: Sennrich et al. 2016 on bytes, with Qwen3.5's pre-tokenizer and ties that always fall
the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from ingot.prompt import byte_alphabet, qwen_tokenizer

Merge = tuple[str, str]


def count_words(texts: Iterable[str]) -> Counter[str]:
    """The pieces inside which merges may happen, in the byte alphabet, and how often each occurs."""
    split = qwen_tokenizer({}, [], ()).pre_tokenizer
    return Counter(piece for text in texts for piece, _ in split.pre_tokenize_str(text))


def learn_merges(words: Counter[str], merges: int) -> list[Merge]:
    """The `merges` most frequent pairs, found one after the other; equal counts go to the pair that sorts first.

    Raises ValueError when the text has no pair left to merge."""
    pieces = {word: tuple(word) for word in words}
    learnt: list[Merge] = []
    for _ in range(merges):
        pairs: Counter[Merge] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            raise ValueError(
                f"merges={merges}, but the text has only {len(learnt)} pairs to merge.\n"
                "hint: give more text or ask for fewer merges."
            )
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learnt.append(best)
        pieces = {word: _join(parts, best) if best[0] in parts else parts for word, parts in pieces.items()}
    return learnt


def vocabulary(merges: Iterable[Merge]) -> dict[str, int]:
    """Ids of the 256 bytes and then of each merge, in order."""
    return {token: i for i, token in enumerate([*byte_alphabet(), *(left + right for left, right in merges)])}


def _join(parts: tuple[str, ...], pair: Merge) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(parts):
        taken = 2 if parts[i : i + 2] == pair else 1
        out.append("".join(parts[i : i + taken]))
        i += taken
    return tuple(out)
