"""The Qwen3.5 byte-level BPE rules: split pattern, byte alphabet, added tokens, and a tokenizer built from them.

Everything here is a rule of the model family, not of one checkpoint. `tokenizer.json` of an official checkpoint states
the same rules; they are written out for checkpoints that ship only `vocab.json` and `merges.txt`, and for the nugget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tokenizers

# Combining marks (\p{M}) belong to words, and digits stand alone. The Qwen2 pattern differs exactly there: it loads
# without complaint and then splits every text with combining marks wrongly (docs/why/prompt-tokenizer.md).
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class AddedToken(NamedTuple):
    """A token matched as a whole before any splitting; `special` ones are left out of decoded text."""

    content: str
    special: bool


# In id order; the first one's id is the size of the BPE vocabulary (248044 in the official one).
ADDED_TOKENS: tuple[AddedToken, ...] = (
    AddedToken("<|endoftext|>", True),
    AddedToken("<|im_start|>", True),
    AddedToken("<|im_end|>", True),
    AddedToken("<|object_ref_start|>", True),
    AddedToken("<|object_ref_end|>", True),
    AddedToken("<|box_start|>", True),
    AddedToken("<|box_end|>", True),
    AddedToken("<|quad_start|>", True),
    AddedToken("<|quad_end|>", True),
    AddedToken("<|vision_start|>", True),
    AddedToken("<|vision_end|>", True),
    AddedToken("<|vision_pad|>", True),
    AddedToken("<|image_pad|>", True),
    AddedToken("<|video_pad|>", True),
    AddedToken("<tool_call>", False),
    AddedToken("</tool_call>", False),
    AddedToken("<|fim_prefix|>", False),
    AddedToken("<|fim_middle|>", False),
    AddedToken("<|fim_suffix|>", False),
    AddedToken("<|fim_pad|>", False),
    AddedToken("<|repo_name|>", False),
    AddedToken("<|file_sep|>", False),
    AddedToken("<tool_response>", False),
    AddedToken("</tool_response>", False),
    AddedToken("<think>", False),
    AddedToken("</think>", False),
    AddedToken("<|audio_start|>", True),
    AddedToken("<|audio_end|>", True),
    AddedToken("<tts_pad>", True),
    AddedToken("<tts_text_bos>", True),
    AddedToken("<tts_text_eod>", True),
    AddedToken("<tts_text_bos_single>", True),
    AddedToken("<|audio_pad|>", True),
)


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for the bytes, in id order (ids 0-255): printable Latin-1 first, as in GPT-2.

    Printable bytes stand for themselves; the other 68 take the code points from 256 on, in byte order.
    """
    return sorted(_character_of_byte())


def byte_of_character() -> dict[str, int]:
    """The byte each character of the alphabet stands for."""
    return {character: byte for byte, character in enumerate(_character_of_byte())}


def _character_of_byte() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def qwen_tokenizer(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    added: Iterable[AddedToken] = ADDED_TOKENS,
) -> tokenizers.Tokenizer:
    """A `tokenizers.Tokenizer` with Qwen3.5's rules: NFC, the split pattern, byte-level BPE, no BOS or EOS.

    `vocab` maps tokens in the byte alphabet to ids 0..n-1; `merges` are pairs of such tokens, best first. `added` take
    the ids n, n+1, ... in order. Empty `vocab`, `merges` and `added` give the untrained pipeline for a BPE trainer.
    Raises ValueError when a merge or its result is not in `vocab`.
    """
    from tokenizers import AddedToken as LibraryToken
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    try:
        tokenizer = Tokenizer(models.BPE(vocab=dict(vocab), merges=[(left, right) for left, right in merges]))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"vocabulary and merges do not fit together: {error}") from error
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated", invert=False)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([LibraryToken(content, special=special, normalized=False) for content, special in added])
    return tokenizer
