"""Which parts a tokenizer of unknown origin may have: a tokenizer.json is a small program, and some never end.

Normalisers that replace text double it as often as they are listed, until memory is gone and the library aborts the
process; a split pattern can take seconds for every character. So the parts are held against those of the family.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ingot.prompt.bpe import SPLIT_PATTERN
from ingot.spec.text_file import one_line, shown

if TYPE_CHECKING:
    import tokenizers

MOST_IDS = 1 << 24  # taste: sixty times the family's; a table of tokens and a row of logits have a place for each

# Earlier members of the family; also what vocabularies are most often trained with.
_PATTERNS = (
    SPLIT_PATTERN,
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


def check_ids(vocab: Any, origin: str) -> None:
    """ValueError, with `origin` in it, unless the ids of `vocab` are 0 to its length, each once.

    The library makes a table up to the largest id, and aborts the process where there is no memory for it; of two
    tokens with one id it would silently decode the other. A vocabulary that is no mapping is left to the library.
    """
    if not isinstance(vocab, dict):
        return
    for token, index in vocab.items():
        if not isinstance(index, int) or isinstance(index, bool):
            raise ValueError(f"{origin} gives token {shown(token)} the id {shown(index)}; ids are integers.")
        if not 0 <= index < len(vocab):
            raise ValueError(
                f"{origin} gives token {shown(token)} the id {shown(index)}; {len(vocab)} tokens have the ids 0 to "
                f"{len(vocab) - 1}."
            )
    if len(set(vocab.values())) < len(vocab):
        raise ValueError(f"{origin} gives two tokens one id.")


def check_parts(library: tokenizers.Tokenizer, origin: str) -> None:
    """ValueError, with `origin` in it, for a tokenizer with parts that no byte-level BPE of the family has."""
    model = type(library.model).__name__
    if model != "BPE":
        raise ValueError(
            f"{origin} is not a byte-level BPE tokenizer (its model is {model}); Ingot reads no other kind."
        )
    if library.model.dropout:
        raise ValueError(f"{origin} drops merges at random (dropout is {library.model.dropout}); ids must be certain.")
    for part in _steps(library.normalizer, "normalizers"):
        if part["type"] != "NFC":
            raise ValueError(f"{origin} has the normalizer {shown(part['type'])}; only NFC leaves a text what it is.")
    for part in _steps(library.pre_tokenizer, "pretokenizers"):
        _check_split(part, origin)
    for token in library.get_added_tokens_decoder().values():
        if token.lstrip or token.rstrip or not token.content:
            raise ValueError(f"{origin} has the added token {shown(token.content)}, which takes the spaces beside it.")


def _steps(part: Any, inner: str) -> list[dict[str, Any]]:
    """A part of the library as plain data; sequences are opened."""
    if part is None:
        return []
    waiting, found = [json.loads(part.__getstate__())], []
    while waiting:
        step = waiting.pop()
        if step["type"] == "Sequence":
            waiting += step[inner]
        else:
            found.append(step)
    return found


def _check_split(part: dict[str, Any], origin: str) -> None:
    kind, pattern = part["type"], part.get("pattern", {}).get("Regex", SPLIT_PATTERN)
    if kind not in ("Split", "ByteLevel", "Digits"):
        raise ValueError(f"{origin} is not a byte-level BPE tokenizer (it has {kind}); Ingot reads no other kind.")
    if kind == "ByteLevel" and part["add_prefix_space"]:
        raise ValueError(f"{origin} puts a space before texts (add_prefix_space); a text must stay what it is.")
    if kind == "Split" and (part["behavior"] == "Removed" or part["invert"]):
        raise ValueError(f"{origin} splits texts in a way that drops parts of them.")
    if pattern not in _PATTERNS:
        raise ValueError(
            f"{origin} splits texts by the pattern {shown(pattern)}, which the family does not have; "
            "others can take seconds for every character."
        )


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """The errors of the `tokenizers` library as ValueErrors that begin with `what`: it raises bare Exception, and a
    panic in Rust arrives as a BaseException."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = error.__cause__ if isinstance(error, ValueError) and error.__cause__ else error
        raise ValueError(f"{what}: {one_line(str(cause))}.") from error
