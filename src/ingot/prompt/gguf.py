"""The tokenizer and the chat template that the metadata of a GGUF hold, under the keys `tokenizer.*`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ingot.prompt.bpe import ADDED_TOKENS, AddedToken, qwen_tokenizer
from ingot.prompt.template import ChatTemplate, default_template
from ingot.prompt.tokenizer import Tokenizer
from ingot.spec.text_file import shown

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # of tokenizer.ggml.token_type
_MODEL, _TOKENS, _TYPES, _MERGES = (f"tokenizer.ggml.{name}" for name in ("model", "tokens", "token_type", "merges"))
_TEMPLATE = "tokenizer.chat_template"


def has_tokenizer(metadata: Mapping[str, Any]) -> bool:
    """Whether there is one, of whatever kind."""
    return metadata.get(_MODEL, "none") not in ("none", "no_vocab")


def tokenizer_from_gguf(metadata: Mapping[str, Any], origin: str) -> Tokenizer:
    """The tokenizer; ValueError, with `origin` in it, for one that is not Qwen3.5's kind, and for parts that do not fit
    together."""
    for key, wanted in ((_MODEL, "gpt2"), ("tokenizer.ggml.pre", "qwen35")):
        if metadata.get(key) != wanted:
            raise ValueError(
                f"{origin}: {key} is {shown(metadata.get(key))}; the tokenizer of Qwen3.5 has {wanted!r}, and another "
                "cuts text otherwise"
            )
    for key in ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"):
        if metadata.get(key):
            raise ValueError(f"{origin}: {key} is true; a text of Qwen3.5 has nothing added at its ends")
    base, added = _vocabulary(metadata, origin)
    merges = _merges(metadata, origin)
    try:
        library = qwen_tokenizer(base, merges, added)
    except ValueError as error:
        raise ValueError(f"{origin}: {_TOKENS} and {_MERGES} do not fit together: {error.__cause__}") from error
    for number, token in enumerate(added, start=len(base)):
        if library.token_to_id(token.content) != number:
            raise ValueError(f"{origin}: token {shown(token.content)} is {number}, and an ordinary token too")
    return Tokenizer(library, origin)


def template_from_gguf(metadata: Mapping[str, Any], origin: str) -> ChatTemplate:
    """The chat template; Ingot's own where there is none."""
    for key, value in metadata.items():
        if key.startswith(_TEMPLATE) and key != f"{_TEMPLATE}s" and not isinstance(value, str):
            raise ValueError(f"{origin}: {key} is a {type(value).__name__}; a text is needed")
    if _TEMPLATE not in metadata:
        return default_template()
    tools = metadata.get(f"{_TEMPLATE}.tool_use")
    return ChatTemplate(metadata[_TEMPLATE], f"{origin}: {_TEMPLATE}", tools, _special_tokens(metadata))


def _vocabulary(metadata: Mapping[str, Any], origin: str) -> tuple[dict[str, int], list[AddedToken]]:
    """The byte-level tokens and, in the order of the ids that follow them, the added ones; filler of the embedding's
    last rows is left out."""
    tokens, types = _texts(metadata, _TOKENS, origin), _numbers(metadata, _TYPES, origin)
    if len(types) != len(tokens):
        raise ValueError(f"{origin}: {_TYPES} has {len(types)} entries, {_TOKENS} {len(tokens)}")
    known = {_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED}
    wrong = next((i for i, kind in enumerate(types) if kind not in known), None)
    if wrong is not None:
        raise ValueError(
            f"{origin}: token {shown(tokens[wrong])} has the type {types[wrong]}; a byte-level BPE has none such"
        )
    ends = [
        max((i + 1 for i, t in enumerate(types) if t in kinds), default=0) for kinds in ((_NORMAL,), known - {_UNUSED})
    ]
    base, added = types[: ends[0]], types[ends[0] : ends[1]]
    if set(base) - {_NORMAL} or _UNUSED in added:
        raise ValueError(f"{origin}: {_TYPES} mixes ordinary and added tokens; the ordinary ones come first")
    vocabulary = {token: i for i, token in enumerate(tokens[: ends[0]])}
    if len(vocabulary) != len(base):
        raise ValueError(f"{origin}: {_TOKENS} has {len(base) - len(vocabulary)} tokens twice")
    # The converter takes every <|...|> for special; of the official tokens it is known which are.
    special = {token.content: token.special for token in ADDED_TOKENS}
    rest = zip(tokens[ends[0] : ends[1]], added, strict=True)
    return vocabulary, [AddedToken(token, special.get(token, kind == _CONTROL)) for token, kind in rest]


def _merges(metadata: Mapping[str, Any], origin: str) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_texts(metadata, _MERGES, origin)):
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise ValueError(f"{origin}: {_MERGES}[{number}] is {line!r:.60}; two tokens with one space are needed")
        merges.append((left, right))
    return merges


def _texts(metadata: Mapping[str, Any], key: str, origin: str) -> list[str]:
    value = metadata.get(key)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{origin}: {key} is missing or no array; it is needed to read text")
    texts = list(value)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{origin}: {key} is an array of numbers; texts are needed")
    return texts


def _numbers(metadata: Mapping[str, Any], key: str, origin: str) -> list[int]:
    value: Any = metadata.get(key)
    if not hasattr(value, "tolist"):
        raise ValueError(f"{origin}: {key} is missing or no array of numbers; it tells control tokens from text")
    numbers: list[int] = value.tolist()
    return numbers


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    """eos_token and the like as texts, as a template may write them."""
    tokens, found = metadata.get(_TOKENS), {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if tokens is not None and isinstance(index, int) and 0 <= index < len(tokens):
            found[f"{name}_token"] = tokens[index]
    return found
