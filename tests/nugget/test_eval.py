"""The measurement itself: intervals, what counts as right, splits that do not overlap, and its tables."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from ingot.eval import small_talk
from ingot.eval.arithmetic import WORDINGS, Sum, ask, draw_sum, is_right, split_of
from ingot.eval.nugget import all_questions, evaluate
from ingot.eval.score import Score, table, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (990, 1000, 0.9817, 0.9946), (1000, 1000, 0.9962, 1.0)],
)  # values of R's binom::binom.confint(methods = "wilson")
def test_wilson(right, total, low, high):
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("right", "total"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(right, total):
    with pytest.raises(ValueError, match="right"):
        wilson(right, total)


def test_what_counts_as_right():
    sum_ = Sum(250, "-", 391)
    for answer in ("-141", "250-391=-141", " 250 - 391 = -141.\n"):
        assert is_right(answer, sum_)
    for answer in ("141", "-14", "-1410", "391-250=-141", "250-391=-141=-141", "It is -141", "", "250-391="):
        assert not is_right(answer, sum_)


def test_a_pair_belongs_to_one_split_whatever_its_order():
    assert all(split_of(a, b) == split_of(b, a) for a in range(40) for b in range(40))
    shares = [split_of(a, b) for a in range(0, 1000, 7) for b in range(0, 1000, 7)]
    assert 0.05 < shares.count("test") / len(shares) < 0.075
    assert 0.05 < shares.count("dev") / len(shares) < 0.075


def test_sums_come_from_the_split_asked_for():
    rng = random.Random(0)
    for split in ("train", "dev", "test"):
        assert all(split_of(s.a, s.b) == split for s in (draw_sum(rng, split) for _ in range(50)))


def test_every_wording_names_both_numbers():
    rng = random.Random(0)
    for unseen in (False, True):
        for _ in range(500):
            sum_ = Sum(rng.randrange(100, 1000), rng.choice("+-"), rng.randrange(10, 100))
            text = ask(sum_, rng, unseen=unseen)
            assert str(sum_.a) in text
            assert str(sum_.b) in text


def test_unseen_wordings_are_not_trained():
    trained = {text for kind, texts in WORDINGS.items() if not kind.startswith("unseen") for text in texts}
    unseen = {text for kind, texts in WORDINGS.items() if kind.startswith("unseen") for text in texts}
    assert len(unseen) == 16
    assert not unseen & trained


def test_held_out_sayings_are_not_trained():
    rng = random.Random(0)
    assert set(small_talk.RIGHT) == set(small_talk.KINDS)
    trained = {small_talk.draw(kind, rng, from_held_out=False).lower() for kind in small_talk.KINDS for _ in range(300)}
    held = {small_talk.draw(kind, rng, from_held_out=True).lower() for kind in ("other", "beyond") for _ in range(300)}
    assert not trained & held


class Perfect:
    """Answers sums by arithmetic and everything else like the nugget should."""

    def __init__(self, questions):
        self.answers = iter(questions)

    def chat(self, messages, tools=None, thinking=None, **options):
        question = next(self.answers)
        assert question.messages == messages
        return SimpleNamespace(content=next(t for t in self.tries() if question.right(t)))

    def tries(self):
        yield from map(str, range(-999, 1999))
        yield from small_talk.RIGHT.values()


def test_a_perfect_model_scores_perfectly_and_every_kind_is_asked():
    questions = list(all_questions(20, seed=0))
    scores = evaluate(Perfect(questions), questions=20)
    assert all(score.right == score.total for score in scores)
    assert sum(s.total for s in scores if s.kind.endswith("all sums")) == 40
    assert {k.split(":")[0] for k in (s.kind for s in scores)} == {"direct", "thinking", *small_talk.KINDS}


def test_questions_are_the_same_every_time():
    first, again = ([q.messages for q in all_questions(20, seed=3)] for _ in range(2))
    assert first == again


def test_too_few_questions_are_refused():
    with pytest.raises(ValueError, match="questions=3"):
        evaluate(Perfect([]), questions=3)


def test_a_weak_skill_is_listed_as_one_it_has_not():
    assert "**does not**" in table([Score("x", 8, 10)])
    assert "**does not**" not in table([Score("x", 9, 10)])
