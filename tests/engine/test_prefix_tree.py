"""What a page of the prefix cache knows of those who come after it, against asking each of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.engine.keys import COLUMNS
from ingot.engine.prefix_tree import Node, Snapshot
from ingot.ops import PAGE

# few letters, of values whose bytes are ordered otherwise than they are; a change in a row's last column, too
LETTERS = (1, 256, -1)
WORDS = st.lists(st.sampled_from(LETTERS), max_size=5)


def keys(word, length=None, last=0):
    """Some rows: a word repeated up to a length, or as it is."""
    ids = np.resize(np.array(word or [0], np.int32), len(word) if length is None else length)
    rows = np.zeros((len(ids), COLUMNS), np.int32)
    rows[:, 0] = ids
    rows[-1:, COLUMNS - 1] = last
    return rows


def page(children, tails):
    node = Node(None, b"", b"", -1, 0)
    for i, child in enumerate(children):
        node.grow(Node(node, bytes([i]), child.tobytes(), i, PAGE))
    for tail in tails:
        node.hang(Snapshot(node, tail.tobytes(), -1, 0, "end", 0.0))
    return node


def begins(longer, shorter):
    return len(shorter) <= len(longer) and (longer[: len(shorter)] == shorter).all()


def overlap(one, other):
    size = min(len(one), len(other))
    return size if begins(one, other[:size]) else int((one[:size] != other[:size]).any(axis=1).argmax())


def unlike(arrays):
    return [*{array.tobytes(): array for array in arrays}.values()]


TAILS = st.lists(st.builds(keys, WORDS, st.none() | st.integers(PAGE - 3, PAGE - 1), st.integers(0, 1)), max_size=12)
CHILDREN = st.lists(st.builds(keys, WORDS, st.just(PAGE), st.integers(0, 1)), max_size=5)
ASKED = st.builds(keys, WORDS, st.none() | st.integers(0, 70), st.integers(0, 1))


@given(CHILDREN, TAILS, ASKED)
def test_who_begins_a_prompt_and_who_is_closest_to_it(children, tails, asked):
    tails, children = unlike(tails), unlike(children)
    node = page(children, tails)
    found = node.begun(asked)
    beginning = [len(tail) for tail in tails if begins(asked, tail)]
    assert (found and len(found.tail)) == max(beginning, default=None)
    assert found is None or begins(asked, found.tail)

    shared, behind = node.closest(asked)
    assert shared == max((overlap(asked[:PAGE], one) for one in [*children, *tails]), default=0)
    assert not (children or tails) or any(
        begins(asked, one[:shared]) and np.array_equal(one[shared:], behind) for one in [*children, *tails]
    )


@given(CHILDREN, TAILS, st.randoms())
def test_what_goes_is_forgotten(children, tails, dice):
    node = page(unlike(children), unlike(tails))
    there = [*node.children.values(), *node.tails.values()]
    dice.shuffle(there)
    for one in there:
        (node.unhang if isinstance(one, Snapshot) else node.lose)(one)
    assert node._known == []
    assert node.begun(keys([1, 1])) is None
    assert node.closest(keys([1, 1]))[0] == 0


@pytest.mark.parametrize("position", [0, 1, 63])
def test_a_snapshot_knows_whether_it_is_kept(position):
    node = page([], [keys([1], position)])
    (snapshot,) = node.tails.values()
    assert snapshot.kept
    node.unhang(snapshot)
    assert not snapshot.kept
    node.hang(Snapshot(node, snapshot.data, -1, 0, "end", 0.0))
    assert not snapshot.kept


@pytest.mark.parametrize("length", [0, 1, 62, 63])
def test_a_tail_of_any_length_is_found(length):
    node = page([keys([1, 256], PAGE)], [keys([1], length)])
    assert len(node.begun(keys([1], PAGE)).tail) == length
    assert node.closest(keys([1], PAGE))[0] == max(1, length)
