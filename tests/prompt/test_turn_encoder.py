"""A conversation that is encoded turn by turn has the ids of the whole, and no turn is cut twice."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ingot
from ingot.prompt import Tokenizer, TurnEncoder
from ingot.prompt.recent import ENTRY_BYTES
from ingot.prompt.turn_encoder import END
from tests.prompt.small_tokenizer import write_small_tokenizer

# what a cut in the wrong place would change: spaces, line breaks, parts of words and of control tokens, combining marks
PIECES = [
    END,
    "<|im_start|>",
    "<think>",
    "<|im_",
    "end|>",
    " ",
    "\n",
    "the",
    "world",
    "e",
    "\u0301",
    "\u0338",
    "你",
    "\r",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


class Counting:
    """A tokenizer that tells what it was asked."""

    def __init__(self, tokenizer):
        self._tokenizer, self.asked, self._lock = tokenizer, [], Lock()

    def encode(self, text):
        with self._lock:
            self.asked.append(text)
        return self._tokenizer.encode(text)

    def has_token(self, token):
        return self._tokenizer.has_token(token)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_small_tokenizer(path)
    return path


@pytest.fixture(scope="module", params=["small", "nugget"])
def tokenizer(request, directory):
    return ingot.load().tokenizer if request.param == "nugget" else Tokenizer.from_directory(directory)


def held(encoder):
    """The bytes of all turns that are remembered."""
    return sum(ENTRY_BYTES + sum(map(sys.getsizeof, key)) + ids.nbytes for key, ids in encoder.turns.items())


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_the_ids_of_the_whole(tokenizer, texts):
    encoder = TurnEncoder(tokenizer, most_bytes=1400)
    for text in [*texts, *texts]:
        ids = encoder.encode(text)
        assert ids.dtype == np.int32
        assert ids.tolist() == tokenizer.encode(text)
        assert encoder.turns.bytes == held(encoder) <= 1400


def test_what_was_said_before_is_not_cut_again(tokenizer):
    counting = Counting(tokenizer)
    encoder = TurnEncoder(counting)
    encoder.encode(f"one{END}\ntwo{END}\nthr")
    counting.asked.clear()
    encoder.encode(f"one{END}\ntwo{END}\nthree{END}\n")
    assert counting.asked == [f"\nthree{END}", "\n"]
    encoder.encode(f"one{END}", salt="another")
    assert counting.asked[2:] == [f"one{END}", ""]


def test_the_oldest_turn_goes(tokenizer):
    counting = Counting(tokenizer)
    encoder = TurnEncoder(counting)
    encoder.encode("a" * 15)
    encoder = TurnEncoder(counting, most_bytes=2 * encoder.turns.bytes)
    for text in ("a" * 15, "b" * 15, "a" * 15, "c" * 15):
        encoder.encode(text)
    counting.asked.clear()
    for text in ("a" * 15, "b" * 15, "d" * 1500):
        encoder.encode(text)
    assert counting.asked == ["b" * 15, "d" * 1500]
    assert encoder.turns.bytes == encoder.turns.most_bytes


@pytest.mark.parametrize("change", [{"single_word": True}, {"normalized": True}, {"content": "<end>"}])
def test_a_tokenizer_that_cuts_otherwise_gets_the_whole_text(directory, tmp_path, change):
    Tokenizer.from_directory(directory)._library.save(str(tmp_path / "tokenizer.json"))
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    described["added_tokens"] = [
        token | change if token["content"] == END else token for token in described["added_tokens"]
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    other = Tokenizer.from_directory(tmp_path)
    text = f"the {END}world {END}\u0338 {END}\n"
    assert TurnEncoder(other).encode(text).tolist() == other.encode(text)


def test_several_threads(tokenizer):
    encoder = TurnEncoder(tokenizer, most_bytes=5000)
    texts = [f"{i % 7} world{END}\n{i % 5} the{END}\n{i}" for i in range(300)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoder.encode, texts))
    assert [ids.tolist() for ids in found] == [tokenizer.encode(text) for text in texts]
    assert 4000 < encoder.turns.bytes == held(encoder) <= 5000
