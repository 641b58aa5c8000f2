"""What is drafted, what it is expected to bring, and when it is worth its rows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.engine.speculate import FAR, MOST_DRAFTS, STALE, Lookup, Odds, Pace, worthwhile


def pace(seconds: dict[int, float]) -> Pace:
    made = Pace()
    for rows, each in seconds.items():
        made.see(rows, each)
    return made


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 20))
@settings(max_examples=200)
def test_a_guess_is_what_followed_the_same_tokens(ids: list[int], count: int) -> None:
    lookup = Lookup(ids)
    drafts = lookup.draft(count)
    if lookup.match == 0:
        tails = [tuple(ids[i : i + 3]) for i in range(len(ids) - 3)]
        assert drafts == []
        assert tuple(ids[-3:]) not in tails or len(ids) < 4
        return
    n = lookup.match
    ends = [e for e in range(n, len(ids)) if ids[e - n : e] == ids[len(ids) - n :]]
    texts = [(ids + drafts)[e : e + count] for e in ends]
    assert len(drafts) == count
    assert drafts in texts


def test_a_match_is_followed_and_its_length_counted() -> None:
    text = list(range(100, 150))
    lookup = Lookup([*text, 7, *text[:3]])
    for i in range(3, 45):
        assert lookup.match == min(i, FAR)
        assert lookup.draft(4) == text[i : i + 4]
        lookup.append(text[i])
    lookup.append(8)
    assert lookup.match == 0
    assert lookup.draft(4) == []


def test_the_longer_match_wins_over_the_later_one() -> None:
    long = [1, 2, 3, 4, 5, 6, 7, 8]
    assert Lookup([*long, 20, 6, 7, 8, 30, 9, *long]).draft(1) == [20]
    assert Lookup([*long, 20, 6, 7, 8, 30, 9, 6, 7, 8]).draft(1) == [30]


def test_a_loop_goes_on() -> None:
    assert Lookup([9, 1, 2, 1, 2, 1, 2]).draft(5) == [1, 2, 1, 2, 1]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 79))
@settings(max_examples=100)
def test_a_prompt_is_what_its_tokens_are_one_by_one(ids: list[int], known: int) -> None:
    lookup = Lookup(ids[:known])
    for token in ids[known:]:
        lookup.append(token)
    assert lookup._after == Lookup(ids)._after
    assert (lookup.match > 0) == (Lookup(ids).match > 0)


def test_odds_follow_what_is_seen() -> None:
    odds = Odds()
    first = odds.chances(5, 3)
    assert first == sorted(first, reverse=True)
    for _ in range(100):
        odds.see(5, True)
        odds.see(20, False)
    assert odds.chances(5, 3)[2] > 0.9
    assert odds.chances(20, 1)[0] < 0.05
    assert odds.chances(6, 5)[3] < 0.6 * odds.chances(6, 5)[1]  # from 8 tokens on nothing was seen
    for _ in range(100):
        odds.see(5, False)
    assert odds.chances(5, 1)[0] < 0.05


def test_pace_is_measured_between_and_beyond() -> None:
    made = pace({2: 1.0, 6: 3.0})
    assert made.of(2) == 1.0
    assert made.of(4) == 2.0
    assert made.of(1) == pytest.approx(1 / 1.15)
    assert made.of(11) == pytest.approx(3 * 2.5 / 1.75)
    assert [made.knows(rows) for rows in (2, 4, 6)] == [True, False, True]


def test_pace_forgets_and_does_not_jump() -> None:
    made = pace({1: 1.0, 8: 2.0})
    made.see(1, 100.0)
    assert made.of(1) == 1.25  # one pass while the machine was busy
    for _ in range(STALE + 1):
        made.see(1, 1.0)
    assert made.of(1) == pytest.approx(1.0)
    assert not made.knows(8)


# seconds of a pass by its rows, chances of an answer's drafts -> how many are tried
CHEAP, DEAR = {1: 1.0, 2: 1.02, 16: 1.2}, {1: 1.0, 2: 2.0, 16: 16.0}


@pytest.mark.parametrize(
    ("seconds", "chances", "counts"),
    [
        (CHEAP, [[0.9**k for k in range(1, 16)]], [15]),
        (CHEAP, [[0.3**k for k in range(1, 16)]], [3]),
        (CHEAP, [[0.01]], [0]),
        (DEAR, [[0.9**k for k in range(1, 16)]], [0]),
        ({1: 1.0, 2: 1.1, 3: 1.3, 4: 1.4, 5: 2.0, 16: 3.3}, [[0.7, 0.49, 0.34, 0.24]], [3]),
        ({2: 1.0, 3: 1.1, 4: 1.5}, [[0.2, 0.1], [0.9, 0.8]], [0, 1]),
        ({2: 1.0, 3: 1.1, 4: 1.2}, [[], [0.9, 0.8]], [0, 2]),
        (CHEAP, [[]], [0]),
        ({4: 1.0}, [[1.0] * MOST_DRAFTS], [0]),  # a pass without drafts was not measured yet
    ],
)
def test_only_what_makes_more_tokens_a_second_is_tried(seconds, chances, counts) -> None:
    assert worthwhile(chances, pace(seconds)) == counts
