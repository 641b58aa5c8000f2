"""Tokenizer learning, packing, schedule, optimiser groups, initial weights, checkpoints."""

from __future__ import annotations

from collections import Counter

import pytest

torch = pytest.importorskip("torch")

from ingot.prompt import SPLIT_PATTERN, qwen_tokenizer  # noqa: E402
from ingot.spec.weights import Weight  # noqa: E402
from ingot.train.bpe import count_words, learn_merges, vocabulary  # noqa: E402
from ingot.train.checkpoint import load_run, save_run  # noqa: E402
from ingot.train.initial import initial_weights  # noqa: E402
from ingot.train.optimiser import warm_hold_fall  # noqa: E402
from ingot.train.packing import Example, cut, pack  # noqa: E402


def test_merges_take_the_most_frequent_pair_and_ties_the_first():
    assert learn_merges(Counter({"abab": 2, "cd": 4, "xy": 4}), 3) == [("a", "b"), ("c", "d"), ("x", "y")]
    assert learn_merges(Counter({"by": 1, "az": 1}), 2) == [("a", "z"), ("b", "y")]
    assert learn_merges(Counter({"aaaa": 1}), 2) == [("a", "a"), ("aa", "aa")]


def test_too_many_merges_are_refused():
    with pytest.raises(ValueError, match="only 1 pairs"):
        learn_merges(Counter({"ab": 1}), 2)


def test_digits_stay_single_and_text_comes_back():
    merges = learn_merges(count_words(["what is 1717 + 1717? naïve"] * 3), 12)
    tokenizer = qwen_tokenizer(vocabulary(merges), merges)
    text = "what is 1717 + 17?"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert "17" not in [tokenizer.id_to_token(i) for i in ids]
    assert r"\p{N}|" in SPLIT_PATTERN


def test_a_pack_predicts_the_next_token_and_the_one_after_inside_each_run():
    first = Example.of_parts([([1, 2], 0.0), ([3, 4], 1.0)])
    second = Example.of_parts([([5], 0.0), ([6], 1.0)])
    packed = pack([first, second], mtp=True)
    assert packed.ids.tolist() == [1, 2, 3, 5]
    assert packed.segments.offset.tolist() == [0, 3, 4]
    assert packed.targets.next_T.tolist() == [2, 3, 4, 6]
    assert packed.targets.weight_T.tolist() == [0, 1, 1, 1]
    assert packed.targets.after_T.tolist() == [3, 4, 0, 0]
    assert packed.targets.after_weight_T.tolist() == [1, 1, 0, 0]


def test_groups_hold_neighbours_in_length_and_lose_nothing():
    examples = [Example((i,) * n, (1.0,) * n) for i, n in enumerate([9, 2, 7, 3, 8])]
    groups = cut(examples, 10)
    assert [[len(e.ids) for e in group] for group in groups] == [[2, 3, 7], [8, 9]]


def test_the_rate_rises_holds_and_falls_to_nothing():
    rates = [warm_hold_fall(step, 100, warm=10, fall=0.4) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[60] == 1.0
    assert rates[80] == 0.5
    assert 0 < rates[99] < 0.03


def test_slow_decay_remembers_and_the_other_forgets_at_once():
    a_log, dt_bias = Weight("x.A_log", (4000,), "decay"), Weight("x.dt_bias", (4000,), "decay")

    def median_kept(kind: str) -> float:
        draw = initial_weights(0, kind)
        return float((-draw(a_log).exp() * torch.nn.functional.softplus(draw(dt_bias))).exp().median())

    assert 0.85 < median_kept("slow") < 0.97
    assert median_kept("hugging_face") < 1e-3


def test_unknown_decay_is_refused():
    with pytest.raises(ValueError, match="'slow' or 'hugging_face'"):
        initial_weights(0, "mamba")


def test_a_run_is_saved_whole_or_not_at_all(tmp_path):
    path = tmp_path / "run.pt"
    assert load_run(path) is None
    save_run(path, {"step": 3, "w": torch.ones(2)})
    (tmp_path / "run.partial").write_bytes(b"cut short")
    assert load_run(path)["step"] == 3
