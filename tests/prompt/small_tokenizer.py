"""A small byte-level BPE tokenizer with Qwen3.5's rules and control tokens, made on the fly for tests."""

from __future__ import annotations

import json
from pathlib import Path

from ingot.prompt import ADDED_TOKENS, byte_alphabet, qwen_tokenizer

_WORDS = ["hello", "world", "the", "assistant", "user", "system", "What", "is", "you", "am", "a"]


def small_merges() -> list[tuple[str, str]]:
    """Merges that build every word of a short list, with and without a space before it, left to right."""
    merges: list[tuple[str, str]] = [("Ċ", "Ċ"), ("Ġ", "Ġ")]
    for word in [*_WORDS, *("Ġ" + word for word in _WORDS)]:
        left = word[0]
        for character in word[1:]:
            if (left, character) not in merges:
                merges.append((left, character))
            left += character
    return merges


def small_vocab() -> dict[str, int]:
    """The 256 bytes, then the result of each merge: ids 0 .. n-1."""
    tokens = [*byte_alphabet(), *(left + right for left, right in small_merges())]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def write_small_tokenizer(path: str | Path, parts: bool = False) -> int:
    """Writes tokenizer.json and tokenizer_config.json into the directory `path`; returns the vocabulary size.

    parts=True writes vocab.json and merges.txt instead of tokenizer.json. No chat template is written.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    vocab, merges = small_vocab(), small_merges()
    library = qwen_tokenizer(vocab, merges)
    if parts:
        (directory / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        (directory / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    else:
        library.save(str(directory / "tokenizer.json"))
    config = {
        "added_tokens_decoder": {
            str(len(vocab) + number): {"content": token.content, "special": token.special, "normalized": False}
            for number, token in enumerate(ADDED_TOKENS)
        },
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 262144,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return len(vocab) + len(ADDED_TOKENS)
