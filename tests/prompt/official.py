"""The vendored official data: chat templates, merges, test vectors, and what is known of the ids."""

from __future__ import annotations

import bz2
import hashlib
from functools import lru_cache
from pathlib import Path

from ingot.prompt import ADDED_TOKENS, Tokenizer, byte_alphabet, qwen_tokenizer

DATA = Path(__file__).resolve().parents[1] / "data"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DATA / "templates").glob("*.jinja"))}
FIRST_ADDED_ID = 248044
MERGES_SHA256 = "a9d356d7bdf1ef4949e3e748e95b8e10ad9d4e2e838eddc38a0a7b6b94d1db8d"


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """The official tokenizer but for its ids: merge m makes id 256 + m here, and the added tokens follow."""
    text = bz2.decompress((DATA / "tokenizer" / "merges.txt.bz2").read_bytes())
    assert hashlib.sha256(text).hexdigest() == MERGES_SHA256
    merges = [(left, right) for left, right in (line.split(" ") for line in text.decode().splitlines())]
    tokens = [*byte_alphabet(), *(left + right for left, right in merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    assert len(vocab) == len(tokens)
    return Tokenizer(qwen_tokenizer(vocab, merges))


@lru_cache(maxsize=1)
def _offsets() -> tuple[list[int], list[int]]:
    """The least and the most that the official id of each merge lies above 256 + its line."""
    lines = (DATA / "tokenizer" / "id_offsets.tsv").read_text(encoding="utf-8").splitlines()[1:]
    starts = [tuple(map(int, line.split("\t"))) for line in lines]
    count = tokenizer().vocab_size - 256 - len(ADDED_TOKENS)
    least, most = [], []
    for (start, low, high), end in zip(starts, [*(start for start, _, _ in starts[1:]), count], strict=True):
        least += [low] * (end - start)
        most += [high] * (end - start)
    return least, most


def official_id(index: int) -> tuple[int, int]:
    """The interval in which the official id of our id lies; both ends equal where it is known."""
    added = index - (tokenizer().vocab_size - len(ADDED_TOKENS))
    if added >= 0:
        return FIRST_ADDED_ID + added, FIRST_ADDED_ID + added
    if index < 256:
        return index, index
    least, most = _offsets()
    return index + least[index - 256], index + most[index - 256]


def vectors(name: str) -> list[tuple[str, list[int], str]]:
    """(text, official ids, decoded text) of one of the vector files `mixed`, `small` and `utf8`."""
    folder = DATA / "tokenizer"
    texts, ids, decoded = (
        (folder / f"{name}_{kind}.txt").read_bytes().decode() for kind in ("input", "tokens_qwen35", "output_qwen35")
    )
    if name == "utf8":
        return [(texts, _ids(ids), decoded)]
    rows = zip(*(_lines(text) for text in (texts, ids, decoded)), strict=True)
    if name == "small":
        return [(_unescape(text), _ids(row), _unescape(out)) for text, row, out in rows]
    return [(text, _ids(row), out) for text, row, out in rows]


def _unescape(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\s", " ")


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def _ids(line: str) -> list[int]:
    return [int(part) for part in line.strip().split(",") if part.strip()]
