"""Text to token ids and back, from the checkpoint's own tokenizer files.

Encoding is the `tokenizers` library's. Decoding is ours: every id stands for a fixed string of bytes, so decoding is a
join and a UTF-8 decode with U+FFFD for what is not UTF-8, and a stream can be decoded in linear time.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.prompt.bpe import AddedToken, byte_alphabet, byte_of_character, qwen_tokenizer
from ingot.prompt.compiled import CompiledTokenizer, compiled, without_added_tokens
from ingot.prompt.outside_text import check_unicode, read_json_object, read_text
from ingot.prompt.tokenizer_parts import MOST_IDS, check_ids, check_parts, library_errors
from ingot.spec.text_file import shown

if TYPE_CHECKING:
    import tokenizers

WHOLE_BYTES = 32 << 20  # of tokenizer.json (taste): the family's has 20 MB
# config.json names <|endoftext|>, chat turns end with <|im_end|>, and the official repositories ship no
# generation_config.json that would name both: generation must stop at either.
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")


class Tokenizer:
    """A byte-level BPE tokenizer. `vocab_size` counts every id, added tokens included; ids from there on are padding
    rows of the model's embedding and must be masked when sampling."""

    def __init__(self, library: tokenizers.Tokenizer | CompiledTokenizer, origin: str = "tokenizer") -> None:
        """Wraps a `tokenizers.Tokenizer`, or one that was compiled; ValueError, with `origin` in it, when it is not a
        byte-level BPE."""
        if not isinstance(library, CompiledTokenizer):  # a compiled one was checked before it was
            check_parts(library, origin)
        library.no_truncation()
        library.no_padding()
        added = library.get_added_tokens_decoder()
        self._library, self._origin = library, origin
        self._plain: tokenizers.Tokenizer | CompiledTokenizer | None = None
        self._bytes_of_id = _BytesOfId(library)
        self._bytes_of_id |= {int(index): token.content.encode() for index, token in added.items()}
        self.special_ids = frozenset(int(index) for index, token in added.items() if token.special)
        self.vocab_size = max([library.get_vocab_size(with_added_tokens=True) - 1, *self._bytes_of_id]) + 1
        if self.vocab_size > MOST_IDS:
            raise ValueError(f"{origin} gives ids up to {self.vocab_size - 1}; {MOST_IDS} ids are the most.")
        _require_byte_level(self, origin)

    @classmethod
    def from_directory(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of the checkpoint directory `path`.

        Reads tokenizer.json; where there is none, vocab.json, merges.txt and the added tokens of tokenizer_config.json
        under Qwen3.5's rules. Raises ValueError naming the file that is missing, unreadable or inconsistent.
        """
        directory = Path(path)
        if not directory.is_dir():
            raise ValueError(f"tokenizer path {str(path)!r} is not a directory.")
        whole = directory / "tokenizer.json"
        if os.path.lexists(whole):
            return cls(_load_whole(whole), str(whole))
        if not (directory / "vocab.json").exists():
            raise ValueError(
                f"{directory} has neither tokenizer.json nor vocab.json with merges.txt.\n"
                "hint: download the tokenizer files of the same repository into this directory."
            )
        return cls(_load_parts(directory), str(directory / "vocab.json"))

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`, nothing added at either end.

        special=True reads control tokens written in the text (`<|im_end|>`, `<think>`, ...) as those tokens: use it for
        rendered templates. special=False reads them as ordinary characters: text from outside cannot end a turn.
        Raises ValueError when `text` has a lone surrogate, which no UTF-8 can carry.
        """
        if not isinstance(text, str):
            raise ValueError(f"text is a {type(text).__name__}; encode takes a str.")
        check_unicode(text, "text")
        library = self._library if special else self._without_added_tokens()
        with library_errors(f"{self._origin} cannot encode this text"):
            return list(library.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. Ids that stand for no token have no text.

        skip_special=True leaves out tokens flagged special (`<|im_end|>`, not `<think>`). ValueError for negative ids.
        """
        return self.bytes_of(ids, skip_special).decode("utf-8", "replace")

    def bytes_of(self, ids: Iterable[int], skip_special: bool = False) -> bytes:
        """The bytes `ids` stand for, before any reading as UTF-8."""
        if skip_special:
            ids = [index for index in ids if int(index) not in self.special_ids]
        return b"".join(self.each_bytes(ids))

    def each_bytes(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes that each of the ids stands for."""
        plain = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return list(map(self._bytes_of_id.__getitem__, plain))

    def token_id(self, token: str) -> int:
        """The id of one token, written as added (`<think>`) or in the byte alphabet (`Ġthe`); ValueError if unknown."""
        index = self._library.token_to_id(token)
        if index is None:
            raise ValueError(f"token {token!r} is not in the vocabulary.")
        return int(index)

    def has_token(self, token: str) -> bool:
        """Whether `token` has an id of its own."""
        return self._library.token_to_id(token) is not None

    def stop_ids(self, *eos: int | Iterable[int] | None) -> frozenset[int]:
        """Ids that end a generation: `<|im_end|>` and `<|endoftext|>` where they exist, and the `eos_token_id` values
        of config.json or generation_config.json given here (an id, a list of ids or None)."""
        ids = {self.token_id(token) for token in STOP_TOKENS if self.has_token(token)}
        for given in eos:
            if given is not None:
                ids.update([given] if isinstance(given, int) else given)
        return frozenset(ids)

    def tables(self) -> dict[str, bytes] | None:
        """What `CompiledTokenizer` makes this tokenizer of; None where it cannot."""
        return None if isinstance(self._library, CompiledTokenizer) else compiled(self._library)

    def _without_added_tokens(self) -> tokenizers.Tokenizer | CompiledTokenizer:
        if self._plain is None:
            whole = self._library
            if isinstance(whole, CompiledTokenizer):
                self._plain = whole.without_added_tokens()
            else:
                self._plain = without_added_tokens(whole)
        return self._plain


class _BytesOfId(dict[int, bytes]):
    """The bytes of each id that was asked for; a conversation's are asked for again and again."""

    def __init__(self, library: tokenizers.Tokenizer | CompiledTokenizer) -> None:
        self._library, self._byte_of_character = library, byte_of_character()

    def __missing__(self, index: int) -> bytes:
        if index < 0:
            raise ValueError(f"token id {index} is negative; ids start at 0.")
        token = self._library.id_to_token(int(index)) or ""
        known = self[int(index)] = _token_bytes(token, self._byte_of_character)
        return known


class StreamDecoder:
    """Decodes ids as they arrive. The concatenation of every push and of finish is `decode` of all ids; a character is
    given out only when it is whole. `skip_special` as in decode."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: int | Iterable[int]) -> str:
        """The text that `ids` (one or several) complete; possibly empty."""
        several = ids if isinstance(ids, Iterable) else [ids]
        return self._decoder.decode(self._tokenizer.bytes_of(several, self._skip_special))

    def finish(self) -> str:
        """U+FFFD for a character that never became whole, else nothing. The decoder can then start again."""
        return self._decoder.decode(b"", final=True)


def _token_bytes(token: str, byte_of: dict[str, int]) -> bytes:
    """The bytes a token in the byte alphabet stands for; a token outside the alphabet stands for its own UTF-8."""
    if all(character in byte_of for character in token):
        return bytes(byte_of[character] for character in token)
    return token.encode()


def _require_byte_level(tokenizer: Tokenizer, origin: str) -> None:
    missing = [character for character in byte_alphabet() if not tokenizer.has_token(character)]
    probe = " né\u4e2d\n"
    if missing or tokenizer.decode(tokenizer.encode(probe)) != probe:
        reason = (
            f"{len(missing)} of the 256 byte tokens are missing" if missing else "it does not give back a probe text"
        )
        raise ValueError(f"{origin} is not a byte-level BPE tokenizer ({reason}); Ingot reads no other kind.")


def _load_whole(path: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as LibraryTokenizer

    text = read_text(path, WHOLE_BYTES)
    with library_errors(f"{path} cannot be read as a tokenizer"):
        raw = json.loads(text)
    model = raw.get("model") if isinstance(raw, dict) else None
    check_ids(model.get("vocab") if isinstance(model, dict) else None, str(path))
    with library_errors(f"{path} cannot be read as a tokenizer"):
        return LibraryTokenizer.from_str(text)


def _load_parts(directory: Path) -> tokenizers.Tokenizer:
    vocab = read_json_object(directory / "vocab.json")
    merges = _read_merges(directory / "merges.txt")
    added = _read_added_tokens(directory / "tokenizer_config.json")
    check_ids(vocab, str(directory / "vocab.json"))
    with library_errors(f"{directory / 'vocab.json'} and merges.txt do not fit together"):
        library = qwen_tokenizer(vocab, merges, [token for _, token in added])
    for index, token in added:
        if library.token_to_id(token.content) != index:
            found = library.token_to_id(token.content)
            raise ValueError(
                f"{directory / 'tokenizer_config.json'} gives {shown(token.content)} the id {index}, but after the "
                f"{len(vocab)} tokens of vocab.json it comes at {found}; the files are of different tokenizers."
            )
    return library


def _read_merges(path: Path) -> list[tuple[str, str]]:
    lines = read_text(path).split("\n")
    if lines[0].startswith("#version"):
        del lines[0]
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise ValueError(
                f"{path} has {shown(line)} as merge {number}; a merge is two tokens with one space between."
            )
        merges.append((left, right))
    return merges


def _read_added_tokens(path: Path) -> list[tuple[int, AddedToken]]:
    entries = read_json_object(path).get("added_tokens_decoder")
    if not isinstance(entries, dict):
        raise ValueError(f"{path} has no added_tokens_decoder, so the ids of the control tokens are unknown.")
    try:
        return sorted((int(index), _added_token(entry)) for index, entry in entries.items())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a malformed added_tokens_decoder ({shown(error)}).") from error


def _added_token(entry: Any) -> AddedToken:
    token = AddedToken(entry["content"], entry.get("special", False))
    if not isinstance(token.content, str) or not token.content or not isinstance(token.special, bool):
        raise ValueError(f"content {shown(token.content)}, special {shown(token.special)}")
    check_unicode(token.content, "content")
    return token
