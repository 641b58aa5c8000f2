"""Checkpoints of official shape with random weights and a made-up vocabulary of the official size: for speed only."""

from __future__ import annotations

import json
from itertools import islice, product
from pathlib import Path

from ingot.prompt import ADDED_TOKENS, byte_alphabet, qwen_tokenizer
from ingot.spec import official
from ingot.store import write_random_checkpoint

FIRST_ADDED_ID = 248_044  # of the official vocabulary: <|endoftext|>


def official_shape(size: str, directory: Path, vision: bool = False) -> Path:
    """`directory`/`size` with the official configuration, random bf16 weights and a tokenizer; made once. With `vision`
    a tower too, in a directory of its own."""
    place = directory / (f"{size}-vision" if vision else size)
    if not (place / "tokenizer_config.json").is_file():  # written last
        write_random_checkpoint(place, official(size), mtp=False, vision=vision)
        write_tokenizer(place)
    return place


def write_tokenizer(place: Path) -> None:
    """As many tokens and merges as the official one has, so that loading it costs what that costs: every pair of
    bytes, then pairs with a byte behind."""
    alphabet = list(byte_alphabet())
    pairs = list(product(alphabet, alphabet))
    triples = ((a + b, c) for (a, b), c in product(pairs, alphabet))
    merges = pairs + list(islice(triples, FIRST_ADDED_ID - len(alphabet) - len(pairs)))
    vocab = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    qwen_tokenizer(vocab, merges).save(str(place / "tokenizer.json"))
    added = {
        str(len(vocab) + i): {"content": token.content, "special": token.special, "normalized": False}
        for i, token in enumerate(ADDED_TOKENS)
    }
    config = {"added_tokens_decoder": added, "eos_token": "<|im_end|>", "tokenizer_class": "Qwen2Tokenizer"}
    (place / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def with_template(checkpoint: Path, template: Path) -> Path:
    """The same checkpoint, by links, with a chat template of its own."""
    place = checkpoint.with_name(checkpoint.name + "-chat")
    place.mkdir(exist_ok=True)
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        if not (place / file).exists():
            (place / file).symlink_to((checkpoint / file).resolve())
    (place / "chat_template.jinja").write_bytes(template.read_bytes())
    return place
