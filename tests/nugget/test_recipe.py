"""The recipe: right lessons, no leak of held-out sums, the same weights after being killed and started again."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import re
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from ingot.eval.arithmetic import Sum, split_of  # noqa: E402
from ingot.prompt import Tokenizer  # noqa: E402

PATH = Path(__file__).parents[2] / "recipes" / "nugget.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("nugget_recipe", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def learned(recipe, tmp_path_factory):
    """The folder of a run that has its tokenizer and no step."""
    place = tmp_path_factory.mktemp("tokenizer")
    recipe.learn_tokenizer(place)
    return place


@pytest.fixture(scope="module")
def tokenizer(learned):
    return Tokenizer.from_directory(learned)


def test_a_thought_is_the_sum_as_learnt_at_school(recipe):
    assert recipe.work_out(Sum(47, "+", 85)) == "47+85\n7+5=12\n4+8+1=13"
    assert recipe.work_out(Sum(250, "-", 391)) == "250-391\n250<391: -(391-250)\n1-0=1\n9-5=4\n3-2=1"
    assert recipe.work_out(Sum(302, "-", 145)) == "302-145\n12-5=7\n10-4-1=5\n3-1-1=1"


def test_every_line_of_every_thought_is_true(recipe):
    rng = random.Random(0)
    for _ in range(300):
        sum_ = Sum(rng.randrange(1000), rng.choice("+-"), rng.randrange(1000))
        lines = re.findall(r"^([\d+-]+)=(\d+)$", recipe.work_out(sum_), re.MULTILINE)
        assert len(lines) == sum_.digits
        assert all(eval(left) == int(right) for left, right in lines)  # left holds digits, + and - only
        digits = [int(right) % 10 for _, right in lines]
        assert sum(d * 10**i for i, d in enumerate(digits)) == abs(sum_.answer) % 10**sum_.digits


def test_no_lesson_holds_a_held_out_sum(recipe, tokenizer):
    lessons = recipe.Lessons(tokenizer, seed=1)
    for step in (0, 50, 99):
        for example in lessons.of_step(step, 100):
            taught = [token for token, weight in zip(example.ids, example.weights, strict=True) if weight]
            text = tokenizer.decode(example.ids) if len(taught) < len(example.ids) else ""
            for a, b in re.findall(r"(\d+)[+-](\d+)=-?\d", text):
                assert split_of(int(a), int(b)) == "train" or "<|im_start|>" in text
    rng = random.Random(2)
    for _ in range(2000):
        _, _, reply = recipe.conversation(rng)
        if pair := re.fullmatch(r"(\d+)[+-](\d+)=-?\d+", reply):
            assert split_of(*map(int, pair.groups())) == "train"


def test_lessons_are_a_function_of_seed_and_step(recipe, tokenizer):
    lessons = recipe.Lessons(tokenizer, seed=1)
    assert lessons.of_step(7, 100) == recipe.Lessons(tokenizer, seed=1).of_step(7, 100)
    assert lessons.of_step(7, 100) != lessons.of_step(8, 100)


def test_only_what_the_model_should_say_counts(recipe, tokenizer):
    example = recipe.Lessons(tokenizer, seed=1).chat(random.Random(5))
    counted = [i for i, weight in enumerate(example.weights) if weight]
    assert counted == list(range(counted[0], len(example.ids)))
    assert tokenizer.decode(example.ids[: counted[0]]).endswith(("<think>\n", "</think>\n\n"))
    assert tokenizer.decode(example.ids).endswith("<|im_end|>")


def test_the_tokenizer_has_the_size_of_the_model(recipe, tokenizer, tmp_path):
    assert tokenizer.vocab_size == recipe.VOCABULARY - 7
    for word in ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "user", "assistant", "\n\n"):
        assert len(tokenizer.encode(word)) == 1
    assert [len(tokenizer.encode(d)) for d in ("7", "17", "170")] == [1, 2, 3]


def test_a_killed_run_goes_on_to_the_same_weights(recipe, learned, tmp_path):
    def weights(name: str, *legs: int | None) -> str:
        shutil.copytree(learned, tmp_path / name)
        for stop_after in legs:
            recipe.train(tmp_path / name, steps=4, stop_after=stop_after, threads=1 + (stop_after is None))
        return hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest()

    assert weights("whole", None) == weights("killed", 1, 3, None)


def test_the_run_leaves_a_checkpoint_that_loads(recipe, tmp_path):
    import ingot

    recipe.train(tmp_path / "run", steps=1)  # which learns the tokenizer, too
    model = ingot.load(tmp_path / "run", backend="reference")
    assert isinstance(Tokenizer.from_directory(tmp_path / "run"), Tokenizer)
    assert model.logits("17+25=").shape[1] == recipe.VOCABULARY
