"""Messages to token ids and back: tokenizer, chat template, message rules, output parser. Knows no engine."""

from __future__ import annotations

from ingot.prompt.bpe import ADDED_TOKENS, SPLIT_PATTERN, AddedToken, byte_alphabet, qwen_tokenizer

__all__ = ["ADDED_TOKENS", "SPLIT_PATTERN", "AddedToken", "byte_alphabet", "qwen_tokenizer"]
