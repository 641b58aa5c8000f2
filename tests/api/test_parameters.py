"""Every parameter of `generate` and `chat` changes what it should: a table with a row for each, on given logits.

The model says what the test wants at every step; tokenizer, template, sampler and scheduler are real.
"""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest

import ingot
from ingot.engine import SamplingParams, answer_seed
from ingot.spec import official, parse_config
from ingot.spec.presets import PRESETS, sampling_preset
from tests.api.small_model import write_small_model

MESSAGES = [{"role": "user", "content": "hello"}]
PROMPT = [5, 6]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


class Forced:
    """A root whose logits are the same at every token: `scores` for some ids, -30 for the others."""

    def __init__(self, m):
        self.rows, self.passes = np.full(m.config.text.vocab_size, -30, np.float32), 0

    def __call__(self, ops, ids, seg, pools, rows=None, features=None):
        self.passes += 1
        return np.tile(self.rows, (len(ids) if rows is None else len(rows), 1))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def m(path):
    """A is the best id, then B, then C; greedy unless a test says."""
    model = ingot.load(path, prefix_cache=64 << 20)
    model.generation_config = {"temperature": 0}
    model.A, model.B, model.C = (model.tokenizer.encode(text)[0] for text in "abc")
    model.END = model.tokenizer.token_id("<|im_end|>")
    model.engine.root = Forced(model)
    says(model, {model.A: 3.0, model.B: 2.5, model.C: 1.0})
    return model


def says(m, scores):
    m.engine.root.rows[:] = -30
    for token, score in scores.items():
        m.engine.root.rows[token] = score


def ids(m, *, prompt=PROMPT, max_tokens=6, **parameters):
    return m.generate(prompt, max_tokens=max_tokens, **parameters).ids


def draws(m, **parameters):
    """The ids that 200 drawn tokens have among them."""
    return set(ids(m, max_tokens=200, seed=1, ignore_eos=True, **({"temperature": 1.0} | parameters)))


def temperature(m):
    assert draws(m, temperature=0) == {m.A}
    assert draws(m, temperature=1.0) == {m.A, m.B, m.C}
    assert len(draws(m, temperature=100)) > 20


def top_k(m):
    assert [len(draws(m, top_k=k)) for k in (1, 2, 3)] == [1, 2, 3]


def top_p(m):
    assert [len(draws(m, top_p=p)) for p in (0.1, 0.7, 1.0)] == [1, 2, 3]


def min_p(m):
    assert [len(draws(m, min_p=p)) for p in (1.0, 0.5, 0.0)] == [1, 2, 3]


def presence_penalty(m):
    assert ids(m) == [m.A] * 6
    assert ids(m, presence_penalty=1.0, max_tokens=3) == [m.A, m.B, m.A]  # 3 2.5 | 2 2.5 | 2 1.5
    assert ids(m, presence_penalty=-2.0) == [m.A] * 6


def frequency_penalty(m):
    assert ids(m, frequency_penalty=0.3, max_tokens=4) == [m.A, m.A, m.B, m.A]  # 3 2.7 | 2.4 2.5 | 2.4 2.2


def repetition_penalty(m):
    assert ids(m, prompt=[m.A], repetition_penalty=1.5, max_tokens=1) == [m.B]  # the prompt's tokens count
    assert ids(m, prompt=[m.C], repetition_penalty=1.5, max_tokens=1) == [m.A]


def logit_bias(m):
    assert ids(m, logit_bias={m.B: 1}) == [m.B] * 6
    assert ids(m, logit_bias={str(m.A): -100}) == [m.B] * 6
    assert ids(m, logit_bias={m.C: 100}, presence_penalty=2.0) == [m.C] * 6  # the bias comes first, the penalty counts


def no_repeat_ngram_size(m):
    assert ids(m, no_repeat_ngram_size=1, max_tokens=3) == [m.A, m.B, m.C]
    assert ids(m, no_repeat_ngram_size=2, max_tokens=5) == [m.A, m.A, m.B, m.A, m.C]
    assert ids(m, no_repeat_ngram_size=2, prompt=[m.A, m.A], max_tokens=1) == [m.B]  # the prompt's count


DRY = {"dry_multiplier": 0.4, "dry_base": 1.5, "dry_allowed_length": 2}


def first_change(m, **parameters):
    """How often A comes before the model says something else."""
    said = ids(m, max_tokens=40, **parameters)
    return next((at for at, token in enumerate(said) if token != m.A), 40)


def dry_multiplier(m):
    assert first_change(m) == 40
    assert first_change(m, **DRY | {"dry_multiplier": 0.6}) == 3  # A A A: two in a row came before, 3 - 0.6 < 2.5
    assert first_change(m, **DRY) == 4  # 3 - 0.4 * 1.5 < 2.5 one token later


def dry_base(m):
    assert first_change(m, **DRY | {"dry_base": 1.0}) == 40
    assert first_change(m, **DRY | {"dry_base": 1.1}) == 6  # 0.4 * 1.1 ** 3 > 0.5


def dry_allowed_length(m):
    assert first_change(m, **DRY | {"dry_allowed_length": 7}) == 9


def dry_sequence_breakers(m):
    assert first_change(m, **DRY, dry_sequence_breakers=["a"]) == 40
    assert first_change(m, **DRY, dry_sequence_breakers=[]) == 4


def seed(m):
    one, again, other = (ids(m, temperature=1.0, max_tokens=40, seed=s) for s in (1, 1, 2))
    assert one == again != other
    assert m.generate(PROMPT, max_tokens=9, seed=7).seed == 7
    drawn = m.generate(PROMPT, max_tokens=40, temperature=1.0)
    assert ids(m, max_tokens=40, temperature=1.0, seed=drawn.seed) == drawn.ids


def max_tokens(m):
    out = m.generate(PROMPT, max_tokens=17)
    assert (len(out.ids), out.finish_reason) == (17, "length")


def n(m):
    several = m.generate(PROMPT, max_tokens=30, temperature=1.0, n=3, seed=5)
    assert [a.ids for a in several] == [ids(m, max_tokens=30, temperature=1.0, seed=s) for s in (5, 6, 7)]
    assert [a.seed for a in several] == [answer_seed(5, i) for i in range(3)] == [5, 6, 7]
    assert len(m.generate([PROMPT, PROMPT], n=2, max_tokens=1)[1]) == 2


def stop(m):
    assert m.generate(PROMPT, max_tokens=9).text == "a" * 9
    out = m.generate(PROMPT, max_tokens=9, stop=["aaa"])
    assert (out.text, out.finish_reason) == ("", "stop")
    assert m.generate(PROMPT, max_tokens=9, frequency_penalty=0.3, stop="b").text == "aa"


def stop_token_ids(m):
    out = m.generate(PROMPT, max_tokens=9, stop_token_ids=[m.A])
    assert (out.ids, out.text, out.finish_reason) == ([m.A], "", "stop")


def min_tokens(m):
    says(m, {m.END: 4.0, m.A: 3.0})
    assert ids(m) == [m.END]
    assert ids(m, min_tokens=3) == [m.A, m.A, m.A, m.END]
    assert ids(m, min_tokens=1, stop_token_ids=[m.A]) != [m.A]


def ignore_eos(m):
    says(m, {m.END: 4.0, m.A: 3.0})
    out = m.generate(PROMPT, max_tokens=7, ignore_eos=True)
    assert (out.ids, out.finish_reason) == ([m.A] * 7, "length")
    assert ids(m, ignore_eos=True, stop_token_ids=[m.END]) == [m.END]  # asked for by name


def logprobs(m):
    assert m.generate(PROMPT, max_tokens=2).logprobs is None
    told = m.generate(PROMPT, max_tokens=2, logprobs=True, temperature=0.01, logit_bias={m.B: 50}).logprobs
    scores = m.engine.root.rows[: m.engine.vocabulary].astype(np.float64)
    want = scores - np.log(np.exp(scores).sum())
    assert [(t.id, t.token, t.bytes, t.top_logprobs) for t in told] == [(m.B, "b", [98], ())] * 2
    assert told[0].logprob == pytest.approx(want[m.B], abs=1e-7)  # the model's own, whatever steered the choice


def top_logprobs(m):
    (told,) = m.generate(PROMPT, max_tokens=1, logprobs=True, top_logprobs=2).logprobs
    assert [t.id for t in told.top_logprobs] == [m.A, m.B]
    assert told.top_logprobs[0].logprob == told.logprob > told.top_logprobs[1].logprob


def preset(m):
    m.generation_config = {}  # else it would speak for itself
    says(m, {m.A: 3.0, m.B: 1.5})
    assert ids(m, temperature=0, max_tokens=2) == [m.A, m.B]  # the card's presence penalty
    assert ids(m, temperature=0, max_tokens=2, preset="coding") == [m.A, m.A]
    assert ids(m, temperature=0, max_tokens=2, preset="coding", presence_penalty=2.0) == [m.A, m.B]
    assert m.chat(MESSAGES, max_tokens=2, preset="coding").reasoning is not None  # the card has it for thinking only
    assert m.chat(MESSAGES, max_tokens=2, preset="general", thinking=False).reasoning is None


def stream(m):
    pieces = m.generate(PROMPT, max_tokens=4, stream=True)
    assert (list(pieces), pieces.completion.text) == (["a"] * 4, "aaaa")
    deltas = list(m.chat(MESSAGES, thinking=False, max_tokens=4, logprobs=True, stream=True))
    assert "".join(d.content for d in deltas) == "aaaa"
    assert [t.id for d in deltas for t in d.logprobs] == [m.A] * 4
    assert list(m.generate([PROMPT, PROMPT], max_tokens=2, stream=True)) == [(0, "a"), (1, "a")] * 2


def batch_size(m):
    passes, m.engine.speculate = [], "off"  # each pass brings a token
    for size in (1, 2, 4):
        before = m.engine.root.passes
        m.generate([PROMPT] * 4, max_tokens=10, batch_size=size)
        passes.append(m.engine.root.passes - before)
    assert passes == [40, 20, 10]


def progress(m):
    calls = []
    m.generate([PROMPT] * 3, max_tokens=2, batch_size=2, progress=lambda *of: calls.append(of))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def thinking(m):
    assert m.chat(MESSAGES, thinking=True, max_tokens=3).reasoning == "aaa"
    assert m.chat(MESSAGES, thinking=False, max_tokens=3).content == "aaa"


def tools(m):
    with_tools = m.chat(MESSAGES, tools=[TOOL], max_tokens=1).usage.prompt_tokens
    assert with_tools > m.chat(MESSAGES, max_tokens=1).usage.prompt_tokens


def chat_template_kwargs(m):
    before = {"role": "assistant", "reasoning_content": "because", "content": "world"}
    turns = [*MESSAGES, before, *MESSAGES]
    kept = m.chat(turns, chat_template_kwargs={"preserve_thinking": True}, max_tokens=1).usage.prompt_tokens
    assert kept > m.chat(turns, max_tokens=1).usage.prompt_tokens


def cache_prompt(m):
    m.chat(MESSAGES, cache_prompt=False, max_tokens=2)
    assert len(m.encoder.answers) == 0
    m.chat(MESSAGES, max_tokens=2)
    assert len(m.encoder.answers) > 0


def cache_salt(m):
    m.chat(MESSAGES, cache_salt="ann", max_tokens=2)
    known = len(m.encoder.answers)
    m.chat(MESSAGES, cache_salt="bob", max_tokens=2)
    assert len(m.encoder.answers) == 2 * known


ROWS = {
    row.__name__: row
    for row in (
        temperature,
        top_k,
        top_p,
        min_p,
        presence_penalty,
        frequency_penalty,
        repetition_penalty,
        logit_bias,
        no_repeat_ngram_size,
        dry_multiplier,
        dry_base,
        dry_allowed_length,
        dry_sequence_breakers,
        seed,
        max_tokens,
        n,
        stop,
        stop_token_ids,
        min_tokens,
        ignore_eos,
        logprobs,
        top_logprobs,
        preset,
        stream,
        batch_size,
        progress,
        thinking,
        tools,
        chat_template_kwargs,
        cache_prompt,
        cache_salt,
    )
}


@pytest.mark.parametrize("name", ROWS)
def test_it_changes_what_it_should(name, m):
    ROWS[name](m)
    assert m.engine.states._slots.taken == m.engine.states.snapshots


def test_every_parameter_has_a_row():
    model = ingot.LanguageModel
    public = {*inspect.signature(model.generate).parameters, *inspect.signature(model.chat).parameters}
    public |= {item.name for item in fields(SamplingParams)}
    assert public - {"self", "prompt", "messages", "sampling"} == set(ROWS)


BAD = [
    ({"n": 0}, "n is 0; it must be an integer from 1 to 128"),
    ({"n": 10**9}, "n is 1000000000"),
    ({"n": True}, "n is True"),
    ({"logprobs": 3}, "logprobs is 3; it must be True or False"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs is 21; it must be an integer from 0 to 20"),
    ({"top_logprobs": 2}, "top_logprobs is 2, but logprobs is False"),
    ({"min_tokens": -1}, "min_tokens is -1"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens is 9, more than max_tokens, which is 8"),
    ({"ignore_eos": 1}, "ignore_eos is 1"),
    ({"cache_prompt": 1}, "cache_prompt is 1; it must be True or False"),
    ({"cache_salt": b"x"}, "cache_salt is b'x'; it must be a text"),
    ({"logit_bias": [5]}, "logit_bias is [5]; it must be a mapping"),
    ({"logit_bias": {"a": 1}}, "logit_bias holds 'a'; its keys are token ids"),
    ({"logit_bias": {-1: 1}}, "logit_bias holds -1"),
    ({"logit_bias": {5: 101}}, "logit_bias[5] is 101; it must be from -100 to 100"),
    ({"logit_bias": {5: float("nan")}}, "logit_bias[5] is nan"),
    ({"logit_bias": {5: 1, "5": 2}}, "logit_bias holds token 5 twice"),
    ({"logit_bias": {10**6: 1}}, "logit_bias holds token 1000000; this model's token ids are 0 to"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
    ({"no_repeat_ngram_size": 1.5}, "no_repeat_ngram_size is 1.5"),
    ({"dry_multiplier": -0.1}, "dry_multiplier is -0.1"),
    ({"dry_base": 0.9}, "dry_base is 0.9; it must be from 1 to 100"),
    ({"dry_allowed_length": 0}, "dry_allowed_length is 0"),
    ({"dry_sequence_breakers": "\n"}, "dry_sequence_breakers is '\\n'; it must be a list"),
    ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers is ['']"),
    ({"preset": "poetry"}, "preset is 'poetry'; the card of a model of this size has general, vision, coding"),
    ({"batch_size": 0}, "batch_size is 0; it must be a positive number of answers"),
    ({"batch_size": 2.0}, "batch_size is 2.0"),
]


@pytest.mark.parametrize(("parameters", "sentence"), BAD, ids=[b[1] for b in BAD])
def test_a_bad_value_is_named_before_anything_runs(path, parameters, sentence):
    model = ingot.load(path)
    model.engine.root = None
    for call in (lambda: model.generate(PROMPT, **parameters), lambda: model.chat(MESSAGES, **parameters)):
        with pytest.raises(ValueError) as error:
            call()
        assert sentence in str(error.value)


def test_a_preset_for_the_other_mode_is_refused_with_what_there_is(m):
    with pytest.raises(ValueError, match="preset is 'coding', which the model card has with thinking only; without it"):
        m.chat(MESSAGES, preset="coding", thinking=False)


def test_no_token_left_is_an_error_not_a_forbidden_one(m):
    vocabulary = m.engine.vocabulary
    with pytest.raises(ValueError, match="every token is forbidden"):
        m.generate(list(range(vocabulary)), no_repeat_ngram_size=1, max_tokens=1)


def test_presets_by_size_mode_and_task():
    """The cards' values; what a card has not is told with what it has."""
    small, large = (parse_config(official(size)).text for size in ("2b", "4b"))
    general = {"temperature": 1.0, "top_p": 0.95, "top_k": 20, "presence_penalty": 1.5}
    assert sampling_preset(small, True) == sampling_preset(large, True) == general
    assert sampling_preset(small, False)["presence_penalty"] == 2.0
    assert sampling_preset(large, False) == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "presence_penalty": 1.5}
    assert sampling_preset(large, False, "reasoning")["top_k"] == 40
    assert sampling_preset(small, False, "vision")["temperature"] == 0.7
    for text in (small, large):
        assert sampling_preset(text, True, "coding") == general | {"temperature": 0.6, "presence_penalty": 0.0}
    with pytest.raises(ValueError, match="preset is 'vision'; the card of a model of this size has general, reasoning"):
        sampling_preset(large, True, "vision")
    assert set(PRESETS) == {"general", "vision", "coding", "reasoning"}
