"""How many users of how many tokens fit, and that what does not fit is refused before it runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ingot.answering import Job
from ingot.engine import Request
from ingot.engine.sequence import MARGIN
from ingot.serve.errors import ApiError
from ingot.serve.plan import LEAST_CONTEXT, MOST_CACHE, Plan, plan
from ingot.spec import official, parse_config
from ingot.spec.cost import kv_bytes, memory, state_bytes

CONFIG = parse_config(official("0.8b"))
ENGINE = SimpleNamespace(
    config=CONFIG,
    context=CONFIG.text.context,
    states=SimpleNamespace(kv="bf16", state_bytes=state_bytes(CONFIG), window_bytes=0),
)
STATE, TOKEN = state_bytes(CONFIG), kv_bytes(CONFIG, "bf16")
BESIDE = MARGIN + memory(CONFIG, "f32", 256).workspace


def room(users, tokens):
    return BESIDE + users * (STATE + tokens * TOKEN)


def test_what_is_free_is_shared():
    made = plan(ENGINE, None, None, room(4, 10_000), cache=0)
    assert (made.parallel, made.context) == (4, 10_000)
    assert made.bytes <= made.room
    assert "4 x 10,000 tokens fit" in str(made)


def test_little_memory_makes_fewer_users_not_shorter_answers():
    made = plan(ENGINE, None, None, room(2, LEAST_CONTEXT + 5), cache=0)
    assert (made.parallel, made.context) == (2, LEAST_CONTEXT + 5)


def test_plenty_of_memory_and_none_known():
    assert plan(ENGINE, None, None, 1 << 50).context == CONFIG.text.context
    made = plan(ENGINE, 3, None, None, cache=0)
    assert made == Plan(3, CONFIG.text.context, 3 * (STATE + CONFIG.text.context * TOKEN), None)


def test_snapshots_take_their_share_and_are_told():
    free = room(4, 40_000)
    made = plan(ENGINE, None, None, free)
    assert made.snapshots == made.room // 8 // STATE > 0
    assert made.room - made.bytes < 4 * TOKEN
    assert f"with {made.snapshots} snapshots" in str(made)
    assert plan(ENGINE, None, None, 1 << 50).snapshots == MOST_CACHE // STATE
    assert plan(ENGINE, None, None, free, 5 * STATE).snapshots == 5


def test_users_and_tokens_that_were_asked_for_come_before_snapshots():
    made = plan(ENGINE, 4, 10_000, room(4, 10_000) + 2 * STATE)
    assert (made.parallel, made.context, made.snapshots) == (4, 10_000, 2)
    with pytest.raises(ValueError, match="--cache-ram"):
        plan(ENGINE, 4, 10_000, room(4, 10_000) + 2 * STATE, cache=3 * STATE)


@pytest.mark.parametrize(("parallel", "context"), [(4, 10_001), (5, 10_000), (None, 60_000), (10_000, None)])
def test_more_than_fits_is_refused(parallel, context):
    with pytest.raises(
        ValueError, match=r"tokens need [\d,]+ MiB; [\d,]+ MiB are free(.|\n)*hint: a smaller --parallel"
    ):
        plan(ENGINE, parallel, context, room(4, 10_000), cache=0)


@pytest.mark.parametrize("context", [0, 1, -5, CONFIG.text.context + 1])
def test_a_context_that_the_model_has_not(context):
    with pytest.raises(ValueError, match="this model's context is 2 to 262,144"):
        plan(ENGINE, None, context, 1 << 40)


def job(tokens, max_tokens=32_768):
    return Job("", Request([1] * tokens, max_tokens=max_tokens), None)


def test_an_answer_is_as_long_as_there_is_room():
    made = Plan(1, 1000, 0, None)
    assert made.fitted(job(300), None).request.max_tokens == 700
    assert made.fitted(job(300, 7), 7).request.max_tokens == 7
    assert made.fitted(job(300, 700), 700).request.max_tokens == 700
    for tokens, asked in ((300, 701), (1000, None), (5000, 1)):
        with pytest.raises(ApiError) as caught:
            made.fitted(job(tokens, asked or 9), asked)
        assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
