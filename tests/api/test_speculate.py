"""Drafts behind `generate` and `chat`: what is told is what is told without, whatever ends an answer."""

from __future__ import annotations

import pytest

import ingot
from tests.api.small_model import write_small_model

pytest.importorskip("ingot.ops.native", exc_type=ImportError)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = write_small_model(tmp_path_factory.mktemp("model"))
    found = {mode: ingot.load(path, speculate=mode) for mode in ("off", "lookup", "auto")}
    found["lookup"].generate("b", max_tokens=40, ignore_eos=True, **loop(found["lookup"], "a"))
    return found


def loop(model, words=("a", "b", "\n")):
    """A bias for few tokens: what is said was said before, and drafts are right and wrong."""
    ids = [i for word in words for i in model.tokenizer.encode(word)]
    return {"logit_bias": dict.fromkeys(ids, 30.0), "temperature": 1.0, "seed": 4}


def alike(models, ask):
    """The answers of each, timings aside; the engine of "lookup" must have tried something."""
    found = [ask(models["off"]), ask(models["lookup"]), ask(models["auto"])]
    assert models["lookup"].engine.states.pools.drafts
    return found


def told(answer):
    return answer.text, answer.finish_reason, answer.usage.completion_tokens


@pytest.mark.parametrize("stop", [None, "ab", "aab", "b\n", "\na"])
@pytest.mark.parametrize("tokens", [30, 1])
def test_a_stop_string_ends_an_answer_where_it_would(models, stop, tokens):
    """Also in the middle of a pass that gave several tokens."""
    off, *drafted = alike(
        models, lambda m: told(m.generate("abab ab", max_tokens=tokens, stop=stop, ignore_eos=True, **loop(m)))
    )
    assert drafted == [off, off]
    assert stop is None or stop not in off[0]


@pytest.mark.parametrize("length", range(12, 36, 3))
def test_a_stop_string_in_the_middle_of_what_was_accepted(models, length):
    """Every draft is right, so that the pass gave tokens after the stop string: nobody asked for them."""
    stop = "a" * length
    settings = {"max_tokens": 60, "stop": stop, "ignore_eos": True}
    off, *drafted = alike(models, lambda m: told(m.generate("b", **settings, **loop(m, "a"))))
    assert off[1:] == ("stop", length)
    assert drafted == [off, off]


def test_several_prompts_and_answers(models):
    def ask(model):
        answers = model.generate(
            ["ab ab", "ba", "\n\n"], n=2, max_tokens=25, stop="aaa", ignore_eos=True, **loop(model)
        )
        return [told(answer) for group in answers for answer in (group if isinstance(group, list) else [group])]

    off, *drafted = alike(models, ask)
    assert drafted == [off, off]


def test_a_stream_has_the_same_text(models):
    def ask(model):
        return "".join(model.generate("abab", max_tokens=40, stop="bbb", ignore_eos=True, stream=True, **loop(model)))

    off, *drafted = alike(models, ask)
    assert drafted == [off, off]


def test_a_stream_that_is_left_frees_everything(models):
    model = models["lookup"]
    for text in (stream := model.generate("abab", max_tokens=40, ignore_eos=True, stream=True, **loop(model))):
        if len(text) > 0:
            stream.close()
            break
    assert model.engine.states._windows.taken == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"speculate": "on"}, "speculate is 'on'; 'auto' or 'lookup' or 'off' is allowed"),
        (
            {"speculate": "auto", "backend": "reference"},
            "speculate is 'auto'; only the native backend gives the same answers with drafts",
        ),
    ],
)
def test_what_cannot_be(tmp_path, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ingot.load(write_small_model(tmp_path), **settings)


def test_other_backends_try_nothing(tmp_path):
    assert ingot.load(write_small_model(tmp_path), backend="reference").engine.speculate == "off"
