"""Tokenizer: official vectors, round trips, control tokens, streaming; broken files."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.prompt import ADDED_TOKENS, StreamDecoder, Tokenizer, byte_alphabet, qwen_tokenizer
from tests.prompt import official
from tests.prompt.small_tokenizer import small_merges, small_vocab, write_small_tokenizer

CHAT = "<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_small_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def small(directory: Path) -> Tokenizer:
    return Tokenizer.from_directory(directory)


@pytest.mark.parametrize("name", ["small", "utf8", "mixed"])
def test_official_vectors(name: str) -> None:
    tokenizer = official.tokenizer()
    for text, expected, decoded in official.vectors(name):
        ids = tokenizer.encode(text)
        intervals = [official.official_id(index) for index in ids]
        assert len(ids) == len(expected)
        assert all(low <= index <= high for (low, high), index in zip(intervals, expected, strict=True))
        assert tokenizer.decode(ids) == decoded


def test_most_vector_ids_are_compared_exactly() -> None:
    ids = [index for text, _, _ in official.vectors("mixed") for index in official.tokenizer().encode(text)]
    exact = [low == high for low, high in map(official.official_id, ids)]
    assert sum(exact) / len(exact) > 0.99


def test_the_qwen2_split_would_differ() -> None:
    """Combining marks belong to their word: the older pattern splits before them, silently."""
    tokenizer = official.tokenizer()
    hindi = "नमस्ते"
    assert len(tokenizer.encode(hindi)) < len(hindi)
    assert [official.official_id(i)[0] for i in tokenizer.encode("123")] == [16, 17, 18]


def test_added_tokens_are_the_official_ones_in_order() -> None:
    ids = {token.content: official.FIRST_ADDED_ID + number for number, token in enumerate(ADDED_TOKENS)}
    assert len(ids) == 33
    assert ids["<|endoftext|>"] == 248044
    assert ids["<|im_end|>"] == 248046
    assert ids["<tool_call>"] == 248058
    assert (ids["<think>"], ids["</think>"]) == (248068, 248069)
    assert ids["<|audio_pad|>"] == 248076
    assert {token.content for token in ADDED_TOKENS if not token.special} >= {"<think>", "</think>", "<tool_call>"}


def test_prompt_tail_of_the_spec() -> None:
    ids = official.tokenizer().encode("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert [official.official_id(i)[0] for i in ids] == [248045, 74455, 198, 248068, 271, 248069, 271]


def test_byte_alphabet_is_gpt2s() -> None:
    alphabet = byte_alphabet()
    assert len(set(alphabet)) == 256
    assert (alphabet[0], alphabet[94], alphabet[188], alphabet[220]) == ("!", "¡", "Ā", "Ġ")


def test_both_kinds_of_files_give_one_tokenizer(small: Tokenizer, tmp_path: Path) -> None:
    size = write_small_tokenizer(tmp_path, parts=True)
    parts = Tokenizer.from_directory(tmp_path)
    assert parts.vocab_size == small.vocab_size == size == len(small_vocab()) + 33
    assert parts.encode(CHAT) == small.encode(CHAT)
    assert parts.special_ids == small.special_ids


@given(text=st.text())
def test_decoding_gives_the_text_back_in_nfc(small: Tokenizer, text: str) -> None:
    assert small.decode(small.encode(text, special=False)) == unicodedata.normalize("NFC", text)
    assert official.tokenizer().decode(official.tokenizer().encode(text)) == unicodedata.normalize("NFC", text)


@given(parts=st.lists(st.sampled_from([t.content for t in ADDED_TOKENS]) | st.text(max_size=5), max_size=8))
def test_plain_encoding_has_no_control_tokens(small: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    added = {small.token_id(token.content) for token in ADDED_TOKENS}
    assert not added.intersection(small.encode(text, special=False))
    assert small.decode(small.encode(text, special=False)) == unicodedata.normalize("NFC", text)


def test_control_tokens_are_single_ids(small: Tokenizer) -> None:
    for token in ADDED_TOKENS:
        assert small.encode(token.content) == [small.token_id(token.content)]
    assert small.decode(small.encode(CHAT)) == CHAT
    assert "<|im_" not in small.decode(small.encode(CHAT), skip_special=True)
    assert "<think>\n\n</think>" in small.decode(small.encode(CHAT), skip_special=True)


def test_stop_ids(small: Tokenizer) -> None:
    both = {small.token_id("<|im_end|>"), small.token_id("<|endoftext|>")}
    assert small.stop_ids() == both
    assert small.stop_ids(None, 3, [4, 5]) == both | {3, 4, 5}
    bare = Tokenizer(qwen_tokenizer(small_vocab(), small_merges(), []))
    assert bare.stop_ids() == frozenset()
    assert bare.stop_ids(7) == {7}


@given(data=st.data())
def test_decoding_equals_the_library(small: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, small.vocab_size + 5)))
    assert small.decode(ids) == small._library.decode(ids, skip_special_tokens=False)
    assert small.decode(ids, skip_special=True) == small._library.decode(ids, skip_special_tokens=True)


@given(data=st.data())
def test_streaming_equals_decoding(small: Tokenizer, data: st.DataObject) -> None:
    chunks = data.draw(st.lists(st.lists(st.integers(0, small.vocab_size + 5), max_size=4)))
    skip = data.draw(st.booleans())
    stream = StreamDecoder(small, skip_special=skip)
    text = "".join([*(stream.push(chunk) for chunk in chunks), stream.finish()])
    assert text == small.decode([index for chunk in chunks for index in chunk], skip_special=skip)


@given(text=st.text())
def test_streaming_never_gives_half_a_character(small: Tokenizer, text: str) -> None:
    text = unicodedata.normalize("NFC", text.replace("\ufffd", ""))
    stream = StreamDecoder(small)
    for index in small.encode(text, special=False):
        assert "\ufffd" not in stream.push(index)
    assert stream.finish() == ""


def test_streaming_shows_what_is_text_and_hides_what_is_not(small: Tokenizer) -> None:
    stream = StreamDecoder(small)
    ids = small.encode("a<think><|im_end|>b")
    assert [stream.push(index) for index in ids] == ["a", "<think>", "", "b"]
    emoji = small.encode("🙂")
    assert [stream.push(index) for index in emoji[:-1]] == [""] * (len(emoji) - 1)
    assert stream.finish() == "\ufffd"
    assert stream.push(emoji) == "🙂"


def test_ids_may_be_numpy_integers(small: Tokenizer) -> None:
    ids = np.array(small.encode("hello world"), dtype=np.int32)
    assert small.decode(ids) == "hello world"
    assert StreamDecoder(small).push(ids[0]) == small.decode(ids[:1])


def test_bad_text_and_ids(small: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"text has the lone surrogate U\+D83D at character 3"):
        small.encode("ab \ud83d")
    with pytest.raises(ValueError, match="text is a bytes; encode takes a str"):
        small.encode(b"ab")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token id -1 is negative"):
        small.decode([-1])
    with pytest.raises(ValueError, match="'<nope>' is not in the vocabulary"):
        small.token_id("<nope>")


def _edit_json(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        value = json.loads((path / name).read_text(encoding="utf-8"))
        change(value)
        (path / name).write_text(json.dumps(value), encoding="utf-8")

    return apply


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes(content)


def _truncate(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:1000])


BAD_WHOLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate("tokenizer.json"), "tokenizer.json cannot be read as a tokenizer"),
    "empty": (_write("tokenizer.json", b""), "tokenizer.json cannot be read as a tokenizer"),
    "not text": (_write("tokenizer.json", b"\x00\xff"), "tokenizer.json is not UTF-8 (byte 1)"),
    "other JSON": (_write("tokenizer.json", b"[1]"), "tokenizer.json cannot be read as a tokenizer"),
    "a Git LFS pointer": (_write("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n"), "cannot be read"),
    "no byte-level split": (
        _edit_json("tokenizer.json", lambda value: value.update(pre_tokenizer={"type": "Whitespace"})),
        "tokenizer.json is not a byte-level BPE tokenizer",
    ),
    "a space before texts": (
        _edit_json(
            "tokenizer.json",
            lambda value: value.update(
                pre_tokenizer={
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": True,
                }
            ),
        ),
        "tokenizer.json puts a space before texts (add_prefix_space)",
    ),
    "bytes missing": (
        _edit_json("tokenizer.json", lambda value: value["model"]["vocab"].update(zz=value["model"]["vocab"].pop("Ā"))),
        "1 of the 256 byte tokens are missing",
    ),
    "a merge of unknown parts": (
        _edit_json("tokenizer.json", lambda value: value["model"]["merges"].append(["qq", "zz"])),
        "tokenizer.json cannot be read as a tokenizer",
    ),
}
BAD_PARTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no vocab": (lambda path: (path / "vocab.json").unlink(), "neither tokenizer.json nor vocab.json"),
    "no merges": (lambda path: (path / "merges.txt").unlink(), "merges.txt cannot be read: No such file"),
    "no config": (lambda path: (path / "tokenizer_config.json").unlink(), "tokenizer_config.json cannot be read"),
    "truncated vocab": (_truncate("vocab.json"), "vocab.json is not UTF-8 (byte 999); it may be damaged or truncated"),
    "vocab list": (_write("vocab.json", b"[]"), "vocab.json holds a JSON list; it must be an object"),
    "vocab of texts": (_edit_json("vocab.json", lambda value: value.update({"!": "0"})), "gives token '!' the id '0'"),
    "binary merges": (_write("merges.txt", b"a \xff\n"), "merges.txt is not UTF-8 (byte 2)"),
    "three parts": (_write("merges.txt", b"h e\nh e l\n"), "has 'h e l' as merge 2; a merge is two tokens"),
    "one part": (_write("merges.txt", b"#version: 0.2\nhe\n"), "has 'he' as merge 1"),
    "foreign merges": (_write("merges.txt", b"q z\n"), "vocab.json and merges.txt do not fit together"),
    "no added tokens": (
        _edit_json("tokenizer_config.json", lambda value: value.pop("added_tokens_decoder")),
        "tokenizer_config.json has no added_tokens_decoder",
    ),
    "bad added tokens": (
        _edit_json("tokenizer_config.json", lambda value: value.update(added_tokens_decoder={"x": {}})),
        "malformed added_tokens_decoder",
    ),
    "added tokens elsewhere": (
        _edit_json(
            "tokenizer_config.json",
            lambda value: value.update(added_tokens_decoder={"9000": {"content": "<|im_end|>", "special": True}}),
        ),
        "gives '<|im_end|>' the id 9000, but after the",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_WHOLE.values(), ids=BAD_WHOLE)
def test_bad_tokenizer_json(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    write_small_tokenizer(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError) as caught:
        Tokenizer.from_directory(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(("spoil", "message"), BAD_PARTS.values(), ids=BAD_PARTS)
def test_bad_vocab_and_merges(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    write_small_tokenizer(tmp_path, parts=True)
    spoil(tmp_path)
    with pytest.raises(ValueError) as caught:
        Tokenizer.from_directory(tmp_path)
    assert message in str(caught.value)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere' is not a directory"):
        Tokenizer.from_directory(tmp_path / "nowhere")


def test_training_pipeline_for_own_vocabularies() -> None:
    """What recipes do: train a BPE under these rules, then build the tokenizer with the control tokens behind it."""
    from tokenizers import trainers

    untrained = qwen_tokenizer({}, [], [])
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=byte_alphabet(), show_progress=False)
    untrained.train_from_iterator(["hello hello 12 12"] * 5, trainer)
    model = json.loads(untrained.to_str())["model"]
    tokenizer = Tokenizer(qwen_tokenizer(model["vocab"], [tuple(pair) for pair in model["merges"]]))
    assert [model["vocab"][character] for character in byte_alphabet()] == list(range(256))
    assert tokenizer.token_id("<|endoftext|>") == len(model["vocab"])
    assert "12" not in model["vocab"]
