"""Several prompts at once: each answer is the one it has alone, and what is wrong is named before anything runs."""

from __future__ import annotations

import numpy as np
import pytest

import ingot
from ingot.answer import Completion
from tests.api.small_model import write_seeing_model, write_small_model


@pytest.fixture(scope="module")
def m(tmp_path_factory):
    return ingot.load(write_small_model(tmp_path_factory.mktemp("model")))


def user(text):
    return [{"role": "user", "content": text}]


def is_free(m):
    return m.engine.states._slots.taken == m.engine.states.snapshots


def test_texts_prompts_and_ids_in_order_as_each_alone(m):
    ids = m.encode("the user").ids
    prompts = ["hello", m.encode("world"), ids, np.array(ids), "hello world, hello"]
    for parameters in ({"temperature": 0, "max_tokens": 9}, {"seed": 3, "max_tokens": 20, "top_k": 0}):
        want = [m.generate(p, **parameters) for p in prompts]
        for size in (None, 1, 2, 5):
            got = m.generate(prompts, batch_size=size, **parameters)
            assert [(a.ids, a.text, a.finish_reason) for a in got] == [(a.ids, a.text, a.finish_reason) for a in want]
    assert is_free(m)


def test_a_list_of_one_is_a_list_and_ids_are_one_prompt(m):
    assert isinstance(m.generate([5, 6], max_tokens=1), Completion)
    assert isinstance(m.generate((5, 6), max_tokens=1), Completion)
    for prompts in (["hello"], [[5, 6]], ("hello",), [np.array([5, 6])]):
        (only,) = m.generate(prompts, max_tokens=1)
        assert isinstance(only, Completion)
    assert len(m.chat([user("hello")], max_tokens=1)) == 1


def test_conversations_as_each_alone(m):
    longer = [*user("hello"), {"role": "assistant", "content": "hi"}, *user("x")]
    conversations = [user("hello"), user("what am I?"), longer]
    for thinking in (False, True):
        want = [m.chat(c, thinking=thinking, max_tokens=20, seed=4) for c in conversations]
        got = m.chat(conversations, thinking=thinking, max_tokens=20, seed=4)
        assert [(a.content, a.reasoning, a.ids) for a in got] == [(a.content, a.reasoning, a.ids) for a in want]


def test_n_answers_are_n_runs_with_the_seeds_that_follow(m):
    got = m.chat([user("hello"), user("world")], n=3, max_tokens=15, seed=8, thinking=False)
    for text, answers in zip(("hello", "world"), got, strict=True):
        want = [m.chat(user(text), seed=8 + i, max_tokens=15, thinking=False).ids for i in range(3)]
        assert [answer.ids for answer in answers] == want


def test_a_stop_string_ends_one_answer_and_leaves_the_others(m):
    free = m.generate(["hello", "world"], max_tokens=60, seed=11)
    stop = free[0].text[8:11]
    got = m.generate(["hello", "world"], max_tokens=60, seed=11, stop=stop)
    assert got[0].text == free[0].text.split(stop)[0]
    assert got[1].text == free[1].text.split(stop)[0]
    assert got[0].finish_reason == "stop"


def test_pictures_in_some_of_them(tmp_path):
    seeing = ingot.load(write_seeing_model(tmp_path))

    def picture(height, width):
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return {"type": "image", "image": pixels}

    asked = [
        user([picture(32, 64), {"type": "text", "text": "hello"}]),
        user("hello"),
        user([{"type": "text", "text": "and"}, picture(48, 40), picture(32, 64)]),
    ]
    want = [seeing.chat(one, max_tokens=8, temperature=0, thinking=False).ids for one in asked]
    got = seeing.chat(asked, max_tokens=8, temperature=0, thinking=False, n=2)
    assert [[answer.ids for answer in answers] for answers in got] == [[ids, ids] for ids in want]
    assert len({tuple(ids) for ids in want}) == 3


def test_interrupt_frees_all_of_them(m, monkeypatch):
    root, passes = m.engine.root, []

    def interrupted(*args, **kwargs):
        passes.append(1)
        if len(passes) == 4:
            raise KeyboardInterrupt
        return root(*args, **kwargs)

    monkeypatch.setattr(m.engine, "root", interrupted)
    with pytest.raises(KeyboardInterrupt):
        m.generate(["hello", "world", "user"], max_tokens=9, batch_size=2, n=2)
    assert is_free(m)


def test_leaving_a_stream_frees_all_of_them(m):
    stream = m.generate(["hello", "world"], max_tokens=30, stream=True, seed=1)
    number, piece = next(stream)
    assert stream.completion[number].text.startswith(piece)
    stream.close()
    assert [answer.finish_reason for answer in stream.completion] == [None, None]
    assert is_free(m)


BAD = [
    (lambda m: m.generate(["hello", ""]), "prompts[1]: ids has shape (0,)"),
    (lambda m: m.generate(["hello", [5, -1]]), "prompts[1]: ids holds -1"),
    (lambda m: m.generate(["hello", 5]), "prompts[1]: ids has shape ()"),
    (lambda m: m.generate([[5], None]), "prompts[1]: prompt is NoneType"),
    (lambda m: m.generate([[5], [1] * 40_000]), "prompts[1]: the prompt has 40,000 tokens"),
    (lambda m: m.generate([5, "hello"]), "token ids are integers"),
    (lambda m: m.chat([user("x"), [{"role": "wizard", "content": "x"}]]), "messages[1]: "),
    (lambda m: m.chat([user("x"), []]), "messages[1]: "),
]


@pytest.mark.parametrize(("call", "sentence"), BAD, ids=[b[1] for b in BAD])
def test_what_is_wrong_is_named_by_its_number(m, call, sentence, monkeypatch):
    monkeypatch.setattr(m.engine, "root", None)  # nothing may run
    with pytest.raises(ValueError) as error:
        call(m)
    assert sentence in str(error.value)
    assert is_free(m)
