"""Whatever happens to the bytes of a GGUF, it opens and reads or is refused with a ValueError, and memory stays
bounded."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingot.prompt.gguf import has_tokenizer, template_from_gguf, tokenizer_from_gguf
from ingot.store import gguf_checkpoint, open_checkpoint
from tests.store import gguf_files as files
from tests.store.store_files import config, make_checkpoint

QUIET = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, bytes, int]:
    """A file to write to, the bytes of a small model, and where its data begin."""
    raw = config(vocab_size=360, num_hidden_layers=2, mtp_num_hidden_layers=0)
    del raw["vision_config"]
    place = tmp_path_factory.mktemp("fuzz")
    checkpoint = make_checkpoint(place / "hf", raw, vision=False)
    metadata, tensors = files.text_metadata(raw["text_config"]), files.text_tensors(checkpoint, raw)
    return place / "m.gguf", files.gguf(metadata, tensors), len(files.gguf(metadata, {}))


def opens_or_refuses(path: Path, content: bytes) -> None:
    gguf_checkpoint._read.cache_clear()  # two files of one size can be written within one tick of the clock
    path.write_bytes(content)
    tracemalloc.start()
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.table:
            checkpoint.read(name)
        assert checkpoint.embedded is not None
        if has_tokenizer(checkpoint.embedded.tokenizer):
            tokenizer_from_gguf(checkpoint.embedded.tokenizer, str(path))
        template_from_gguf(checkpoint.embedded.tokenizer, str(path))
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20


@QUIET
@given(data=st.data())
def test_damaged_bytes(whole, data):
    """Half of the damage in the numbers of the first keys and of the tensors, which decide most."""
    path, content, begin = whole
    places = st.one_of(st.integers(0, 1400), st.integers(begin, begin + 1600), st.integers(0, len(content) - 1))
    changed = bytearray(content)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=5)):
        changed[place] = value
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    opens_or_refuses(path, bytes(changed)[:cut])


numbers = st.one_of(
    st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(width=32), st.booleans(), st.text(max_size=4)
)
lists = st.one_of(
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
    st.lists(st.text(max_size=3), max_size=4),
    st.lists(st.booleans(), max_size=4),
    st.lists(st.floats(width=32), max_size=4),
)


@QUIET
@given(data=st.data())
def test_any_metadata(whole, data):
    """Values of every kind under the keys that are read."""
    raw = config(vocab_size=360)
    metadata = files.text_metadata(raw["text_config"])
    keys = [*metadata, "general.alignment", "general.sampling.temp", "tokenizer.chat_template", "split.count"]
    for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4)):
        metadata[key] = data.draw(st.one_of(numbers, lists))
    tensors = {"token_embd.weight": (files.F32, (3, 8), bytes(96))}
    opens_or_refuses(whole[0], files.gguf(metadata, tensors))
