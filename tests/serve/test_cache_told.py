"""What a response tells about the prefix cache, and to whom."""

from __future__ import annotations

import pytest

from ingot.divergence import Divergence, divergence
from ingot.engine import Reuse
from tests.scripted.model import scripted_model
from tests.serve.running import serving, until, user

LONG = "What is the world? " * 12
CACHE = {"cache": 32 << 20, "idle_prefill": False}


@pytest.fixture(scope="module")
def reciter(tmp_path_factory):
    return scripted_model(tmp_path_factory.mktemp("scripted"), lambda prompt: "yes")


@pytest.fixture
def told(reciter):
    with serving(lambda: reciter, parallel=2, debug_cache=True, **CACHE) as running:
        reciter.engine.cache.clear()
        yield running


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def debugged(running, said, **more):
    answer = running.chat(said, debug={"cache": True}, **more)
    (report,) = answer["debug"]["cache"]
    return report


def test_the_same_prompt_again_is_cached_up_to_the_turn(told):
    first, second = told.chat(LONG), told.chat(LONG)
    assert cached(first) == 0
    assert cached(second) == second["usage"]["prompt_tokens"] - 2 - 2  # the empty block of reasoning
    assert "debug" not in second
    assert first["choices"] == second["choices"]


def test_where_a_prompt_diverged_is_told_as_text(told):
    assert debugged(told, LONG + "hello")["diverged"] is None  # nothing was known
    report = debugged(told, LONG + "world")
    assert report["cached_tokens"] <= report["matched_tokens"] < report["prompt_tokens"]
    found = report["diverged"]
    assert found["token"] == report["matched_tokens"]
    assert LONG.endswith(found["before"].split("?")[-2] + "? ") or found["before"].endswith("? ")
    assert found["expected"].startswith("hello<|im_end|>\n")
    assert found["got"].startswith("world<|im_end|>\n")
    assert debugged(told, LONG + "world")["diverged"] is None  # all of it is known


def test_the_place_is_told_in_a_stream_and_for_each_prompt_of_a_completion(told):
    told.chat(LONG + "hello")
    events = list(told.stream(LONG + "world", debug={"cache": True}))
    (report,) = events[-2]["debug"]["cache"]
    assert report["diverged"]["got"].startswith("world")
    assert events[-2]["choices"] == []
    assert "usage" not in events[-2]
    events = list(told.stream(LONG, debug={"cache": True}, stream_options={"include_usage": True}))
    assert (
        events[-2]["usage"]["prompt_tokens_details"]["cached_tokens"]
        == events[-2]["debug"]["cache"][0]["cached_tokens"]
    )
    body = {"prompt": [LONG + "a", LONG + "b"], "debug": {"cache": True}, "max_tokens": 2}
    status, answer, _ = told.ask("/v1/completions", body)
    assert status == 200
    assert len(answer["debug"]["cache"]) == 2


def test_a_completion_tells_cached_tokens_too(told):
    body = {"prompt": LONG * 3, "max_tokens": 2}
    first, second, third = (told.ask("/v1/completions", body)[1] for _ in range(3))
    assert cached(first) == cached(second) == 0  # a bare prompt says nothing about where others go on
    assert cached(third) == third["usage"]["prompt_tokens"] - 1
    assert first["choices"] == second["choices"] == third["choices"]


def test_a_server_without_the_option_tells_nobody(reciter):
    with serving(lambda: reciter, **CACHE) as running:
        status, body, _ = running.ask("/v1/chat/completions", {"messages": [user(LONG)], "debug": {"cache": True}})
        assert (status, body["error"]["param"]) == (400, "debug.cache")
        assert "--debug-cache" in body["error"]["message"]
        assert "debug" not in running.chat(LONG, debug={"cache": False})


def test_a_salt_sees_nothing_of_another(told):
    told.chat(LONG + "a secret", cache_salt="ann")
    for other in ({}, {"cache_salt": "bob"}):
        report = debugged(told, LONG + "hello", **other)
        assert (report["cached_tokens"], report["matched_tokens"], report["diverged"]) == (0, 0, None)
    assert "secret" in debugged(told, LONG + "hello", cache_salt="ann")["diverged"]["expected"]


def test_without_cache_prompt_nothing_is_read_and_nothing_left(told, reciter):
    told.chat(LONG, cache_prompt=False)
    assert cached(told.chat(LONG)) == 0
    assert cached(told.chat(LONG, cache_prompt=False)) == 0
    assert cached(told.chat(LONG)) > 0


def test_a_breakpoint_is_where_another_prompt_goes_on(told):
    said = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "a"}]
    told.chat(said)
    answer = told.chat([said[0], {"type": "text", "text": "\n\nhello"}])
    assert cached(answer) > answer["usage"]["prompt_tokens"] - 24


def test_counters(told):
    before = samples(told)
    usages = [told.chat(LONG)["usage"] for _ in range(2)]
    after = samples(told)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    read = sum(usage["prompt_tokens"] for usage in usages)
    hit = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    assert 0 < hit < read
    for name in ("ingot_prompt_tokens_total", "vllm:prompt_tokens_total", "vllm:prefix_cache_queries"):
        assert grown[name] == read
    for name in ("ingot_cached_tokens_total", "vllm:prefix_cache_hits", "llamacpp:prompt_tokens_cached_total"):
        assert grown[name] == hit
    for name in ("ingot_computed_tokens_total", "llamacpp:prompt_tokens_total"):
        assert grown[name] == read - hit


def samples(running):
    lines = [line.rsplit(" ", 1) for line in running.ask("/metrics")[1].splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_what_is_known_beyond_the_end_is_no_divergence(reciter):
    ids = reciter.tokenizer.encode("hello world")
    tell = lambda reuse: divergence(ids, reuse, reciter.tokenizer)  # noqa: E731
    assert tell(Reuse(0, len(ids), 0, (5, 6))) is None
    assert tell(Reuse(0, 1, 0, ())) is None
    assert tell(Reuse(0, 1, 0, (ids[0],))) == Divergence(1, "hello", "hello", " world")


def test_what_is_read_ahead_is_the_conversations_own(reciter):
    """Of another salt nothing is read, and a conversation that ended in an error has no next turn."""
    with serving(lambda: reciter, parallel=2, debug_cache=True, cache=32 << 20) as running:
        reciter.engine.cache.clear()
        running.chat(LONG, cache_salt="ann")
        running.server.service.ahead.submit(int).result()
        said = {"role": "assistant", "content": "yes"}
        messages = [user(LONG), said, user("hello")]
        for salt, warm in (("bob", False), ("", False), ("ann", True)):
            body = {"messages": messages, "cache_salt": salt}
            answer = running.ask("/v1/chat/completions", body)[1]
            assert (cached(answer) > answer["usage"]["prompt_tokens"] - 24) is warm
        assert running.ask("/health")[0] == 200


def test_the_log_has_counts_and_no_words(told, caplog):
    with caplog.at_level("INFO", "ingot.serve"):
        told.chat(LONG)
        told.chat(LONG, debug={"cache": True})
        until(lambda: caplog.text.count(" cached=") == 2)  # after the answer is out
    counts = [int(line.split(" cached=")[1].split()[0]) for line in caplog.text.splitlines() if " cached=" in line]
    assert counts[0] == 0 < counts[1]
    assert "the world" not in caplog.text


def test_canaries_are_counted(reciter):
    def counts(running):
        lines = running.ask("/metrics")[1].splitlines()
        return {
            name: int(value) for name, value in (line.rsplit(" ", 1) for line in lines if "ingot_cache_" in line[:12])
        }

    with serving(lambda: reciter, parallel=2, canary=1.0, **CACHE) as running:
        reciter.engine.cache.clear()
        before = counts(running)
        running.chat(LONG), running.chat(LONG)
        until(lambda: counts(running)["ingot_cache_canaries_total"] > before["ingot_cache_canaries_total"])
        assert counts(running)["ingot_cache_mismatches_total"] == before["ingot_cache_mismatches_total"]
