"""Whatever happens to its bytes, a file loads or is refused with a ValueError, and memory stays bounded."""

from __future__ import annotations

import json
import tracemalloc

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingot.store import SafetensorsFile
from tests.store.store_files import entry, raw_file

VALID = raw_file(
    {
        "__metadata__": {"format": "pt"},
        "a": entry(),
        "b": entry("BF16", (5,), (24, 34)),
        "c": entry("I8", (0, 3), (34, 34)),
    },
    bytes(range(34)),
)
QUIET = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])

flips = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6)
cuts = st.one_of(st.just(None), st.integers(0, len(VALID)))
inserts = st.tuples(st.integers(0, len(VALID)), st.binary(max_size=12))


def loads_or_refuses(path, content: bytes) -> None:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        file = SafetensorsFile(path)
        for name in file.names:
            tensor = file.tensor(name)
            assert tensor.nbytes == file.info(name).end - file.info(name).begin
            tensor.first_not_finite()
            file.release(name)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000


@QUIET
@given(flips=flips, cut=cuts, insert=inserts)
def test_damaged_bytes(tmp_path, flips, cut, insert):
    content = bytearray(VALID)
    for place, value in flips:
        content[place] = value
    at, extra = insert
    loads_or_refuses(tmp_path / "f", bytes(content[:at] + extra + content[at:])[:cut])


numbers = st.one_of(st.integers(-3, 40), st.integers(), st.floats(), st.booleans(), st.none())
lists = st.one_of(st.lists(numbers, max_size=4), numbers, st.text(max_size=3))
entries = st.one_of(
    st.fixed_dictionaries(
        {"dtype": st.one_of(st.sampled_from(["F32", "BF16", "U8", "F8_E4M3", "C64"]), st.text(max_size=3), lists)},
        optional={"shape": lists, "data_offsets": lists, "more": numbers},
    ),
    lists,
)


@QUIET
@given(
    header=st.dictionaries(st.one_of(st.text(max_size=4), st.just("__metadata__")), entries, max_size=4),
    data=st.binary(max_size=60),
)
def test_any_json_header(tmp_path, header, data):
    loads_or_refuses(tmp_path / "f", raw_file(json.dumps(header).encode(), data))


@QUIET
@given(content=st.binary(max_size=80))
def test_any_bytes(tmp_path, content):
    loads_or_refuses(tmp_path / "f", content)
