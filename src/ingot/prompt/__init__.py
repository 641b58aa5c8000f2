"""Messages to token ids and back: tokenizer, chat template, message rules, output parser. Knows no engine."""

from __future__ import annotations

from ingot.prompt.bpe import ADDED_TOKENS, SPLIT_PATTERN, AddedToken, byte_alphabet, qwen_tokenizer
from ingot.prompt.codec import OutputParser, random_call_id
from ingot.prompt.messages import Medium, normalise_messages, normalise_tools
from ingot.prompt.output import Delta, ParsedMessage, ToolCallDelta
from ingot.prompt.splice import AnswerMemory
from ingot.prompt.template import (
    ChatTemplate,
    default_template,
    default_thinking,
    opens_thinking,
    render,
    render_with_media,
)
from ingot.prompt.tokenizer import StreamDecoder, Tokenizer
from ingot.prompt.turn_encoder import TurnEncoder
from ingot.prompt.turns import TurnTokens

__all__ = [
    "ADDED_TOKENS",
    "SPLIT_PATTERN",
    "AddedToken",
    "AnswerMemory",
    "ChatTemplate",
    "Delta",
    "Medium",
    "OutputParser",
    "ParsedMessage",
    "StreamDecoder",
    "Tokenizer",
    "ToolCallDelta",
    "TurnEncoder",
    "TurnTokens",
    "byte_alphabet",
    "default_template",
    "default_thinking",
    "normalise_messages",
    "normalise_tools",
    "opens_thinking",
    "qwen_tokenizer",
    "random_call_id",
    "render",
    "render_with_media",
]
