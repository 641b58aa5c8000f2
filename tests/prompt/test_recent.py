"""What is remembered is what was used last, and takes the memory that it says."""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.prompt.recent import ENTRY_BYTES, Recent

USE = st.tuples(st.sampled_from(["get", "put", "keep"]), st.integers(0, 9), st.integers(0, 400))


@given(uses=st.lists(USE, max_size=60))
def test_it_is_a_list_of_what_was_used(uses):
    recent, listed = Recent(3000, lambda key: key), []
    for how, key, length in uses:
        known = next((ids for other, ids in listed if other == key), None)
        if how == "get":
            assert recent.get(key) is known
            if known is not None:
                listed = [*(one for one in listed if one[0] != key), (key, known)]
            continue
        ids = np.zeros(length, np.int32)
        recent.put(key, ids, newest=how == "put")
        if (known is None or how == "put") and ENTRY_BYTES + key + ids.nbytes <= 3000:
            listed = [*(one for one in listed if one[0] != key), (key, ids)]
        while sum(ENTRY_BYTES + key + ids.nbytes for key, ids in listed) > 3000:
            listed.pop(0)
        assert len(recent) == len(listed)
        assert all(a is b for (_, a), (_, b) in zip(recent.items(), listed, strict=True))
        assert recent.bytes == sum(ENTRY_BYTES + key + ids.nbytes for key, ids in listed)


@pytest.mark.parametrize("length", [1, 8, 2000])
def test_the_bytes_that_it_says_are_those_that_it_takes(length):
    """Short turns are many: what an entry takes beside its contents is most of it."""
    most = 2 << 20
    recent = Recent(most, sys.getsizeof)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(most // (ENTRY_BYTES + 4 * length)):
            recent.put(f"turn {number}", np.full(length, number, np.int32))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.4 * most < after - before < 1.05 * most
