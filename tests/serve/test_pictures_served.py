"""Pictures come as data: URLs, and are encoded by the engine's thread between the passes of others."""

from __future__ import annotations

import base64
import io
import json
import threading

import numpy as np
import pytest

import ingot
from ingot.engine.pausing import Pausing
from ingot.serve.engine_thread import EngineThread
from ingot.serve.limits import LIMITS
from tests.api.small_model import write_seeing_model
from tests.serve.running import serving, until, user

Image = pytest.importorskip("PIL.Image")


def url(seed, side=24):
    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return ingot.load(write_seeing_model(tmp_path_factory.mktemp("seeing")))


def messages(*seeds):
    parts = [{"type": "image_url", "image_url": {"url": url(seed), "detail": "low"}} for seed in seeds]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}]


def test_a_picture_over_http_is_a_picture_in_python(seeing, tmp_path):
    own = ingot.load(seeing.path)
    with serving(lambda: seeing) as running:
        body = {"messages": messages(1, 2), "max_tokens": 8, "seed": 3, "logprobs": True}
        status, answer, _ = running.ask("/v1/chat/completions", body)
        assert status == 200, answer
        count = running.ask("/tokenize", {"messages": messages(1, 2)})[1]["count"]
    want = own.chat(messages(1, 2), max_tokens=8, seed=3, logprobs=True)
    told = [one["logprob"] for one in answer["choices"][0]["logprobs"]["content"]]
    assert told == [one.logprob for one in want.logprobs]
    assert answer["usage"]["prompt_tokens"] == want.usage.prompt_tokens == count


def test_the_engines_thread_encodes(seeing, monkeypatch):
    threads = []
    encode = type(seeing.engine.eyes)._encode

    def noted(self, visual, pause):
        threads.append(threading.current_thread().name)
        return encode(self, visual, pause)

    monkeypatch.setattr(type(seeing.engine.eyes), "_encode", noted)
    with serving(lambda: seeing) as running:
        assert running.ask("/v1/chat/completions", {"messages": messages(7, 8, 9), "max_tokens": 2})[0] == 200
    assert threads == ["engine"] * 3


def test_what_was_encoded_is_not_forgotten_before_it_is_read(seeing, monkeypatch):
    """The eyes keep little; what a request waits for is the request's."""
    monkeypatch.setattr("ingot.engine.eyes.KEPT_BYTES", 1)
    seen, encode = [], type(seeing.engine.eyes)._encode

    def noted(self, visual, pause):
        seen.append(visual.digest)
        return encode(self, visual, pause)

    monkeypatch.setattr(type(seeing.engine.eyes), "_encode", noted)
    with serving(lambda: seeing) as running:
        body = {"messages": messages(17, 18, 19), "max_tokens": 2, "seed": 1}
        assert running.ask("/v1/chat/completions", body)[0] == 200
        assert len(seeing.engine.eyes._alive) == 1
    assert len(seen) == len(set(seen)) == 3


def test_a_picture_that_fails_costs_its_request_alone(seeing, monkeypatch):
    def failing(self, visual, pause):
        raise MemoryError

    with serving(lambda: seeing) as running:
        stream = running.stream("what?", ignore_eos=True, max_tokens=200)
        next(stream)
        with monkeypatch.context() as patch:
            patch.setattr(type(seeing.engine.eyes), "_encode", failing)
            status, body, _ = running.ask("/v1/chat/completions", {"messages": messages(11), "max_tokens": 2})
        assert (status, "MemoryError" in body["error"]["message"]) == (500, True)
        assert list(stream)[-1] == "[DONE]"
        assert running.ask("/v1/chat/completions", {"messages": messages(11), "max_tokens": 2})[0] == 200


@pytest.fixture
def held(monkeypatch):
    """The fifth operation of the tower waits for `go`; `seen` has the numbers of all that were begun."""

    class Held:
        def __init__(self):
            self.seen, self.there, self.go = [], threading.Event(), threading.Event()

    held, getattribute = Held(), Pausing.__getattr__

    def noted(self, name):
        held.seen.append(name)
        if len(held.seen) == 5:
            held.there.set()
            assert held.go.wait(20)
        return getattribute(self, name)

    monkeypatch.setattr(Pausing, "__getattr__", noted)
    yield held
    held.go.set()


def test_streams_go_on_while_a_picture_is_encoded(seeing, monkeypatch):
    monkeypatch.setattr("ingot.serve.engine_thread.SLICE_S", 0.0)
    passes, look = [], EngineThread._look

    def noted(self, ticket):
        before = self.passes
        look(self, ticket)
        passes.append(self.passes - before)

    monkeypatch.setattr(EngineThread, "_look", noted)
    with serving(lambda: seeing) as running:
        stream = running.stream("what?", ignore_eos=True, max_tokens=250)
        next(stream)
        assert running.ask("/v1/chat/completions", {"messages": messages(21), "max_tokens": 2})[0] == 200
        stream.close()
    assert passes[0] > 10  # one between any two operations


def test_who_leaves_while_a_picture_is_encoded_ends_it(seeing, held):
    with serving(lambda: seeing) as running:
        connection = running.connection()
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": messages(31, 32)}))
        assert held.there.wait(20)
        connection.close()
        until(lambda: running.server.service.open == 0)
        held.go.set()
        engine = running.server.service.engine
        until(lambda: engine.waiting == 0 and engine.running == 0)
        assert running.ask("/v1/chat/completions", {"messages": [user("what?")], "max_tokens": 2})[0] == 200
        assert len(held.seen) == 5
        assert engine.errors == 0


def test_others_begin_while_a_picture_is_encoded(seeing, held):
    """A text behind it needs no eyes; the picture keeps its place among those that run."""
    with serving(lambda: seeing, parallel=2) as running:
        connection = running.connection()
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": messages(41), "max_tokens": 2}))
        assert held.there.wait(20)
        streams = [running.connection() for _ in range(2)]
        for each in streams:
            each.request("POST", "/v1/chat/completions", json.dumps({"messages": [user("what?")], "max_tokens": 3}))
            until(lambda: running.server.service.open >= 2)
        engine = running.server.service.engine
        until(lambda: engine._inbox.qsize() == 2)
        begun, start = [], engine._start
        engine._start = lambda ticket: (begun.append((len(ticket.job.request.visuals), engine.running)), start(ticket))
        held.go.set()
        assert all(each.getresponse().status == 200 for each in [*streams, connection])
    assert begun[0] == (0, 0)
    assert sorted(visuals for visuals, _ in begun) == [0, 0, 1]
    before = [visuals for visuals, _ in begun].index(1)
    assert all(running == 0 for _, running in begun[:before])


DAMAGED = ["data:image/png;base64,AAAA", "data:image/png;base64,!!!", "data:text/plain,hello", "data:", url(5)[:90]]


@pytest.mark.parametrize("source", DAMAGED, ids=lambda text: text[:30])
def test_a_damaged_picture(seeing, source):
    with serving(lambda: seeing) as running:
        body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": source}}]}]}
        status, answer, _ = running.ask("/v1/chat/completions", body)
        assert (status, answer["error"]["param"]) == (400, "messages[0].content[0].image_url.url")


def test_the_pixels_of_all_requests_are_bounded(seeing, monkeypatch):
    most = {**LIMITS, "pixels": (1500, "", "")}
    with serving(lambda: seeing) as running:
        monkeypatch.setattr("ingot.serve.limits.LIMITS", most)
        for _ in range(3):  # what was held is given back
            assert running.ask("/v1/chat/completions", {"messages": messages(1), "max_tokens": 2})[0] == 200
        status, body, headers = running.ask("/v1/chat/completions", {"messages": messages(1, 2), "max_tokens": 2})
        assert (status, body["error"]["code"]) == (503, "pixels")
        assert "retry-after" in headers
        assert running.server.service.pixels == 0


def test_a_picture_that_the_prefix_cache_knows_is_not_encoded_again(seeing, monkeypatch):
    seen, encode = [], type(seeing.engine.eyes)._encode

    def noted(self, visual, pause):
        seen.append(visual.digest)
        return encode(self, visual, pause)

    monkeypatch.setattr(type(seeing.engine.eyes), "_encode", noted)
    body = {"messages": messages(61), "max_tokens": 2, "temperature": 0}
    with serving(lambda: seeing) as running:
        first = running.ask("/v1/chat/completions", body)[1]
        seeing.engine.eyes._kept.clear()
        second = running.ask("/v1/chat/completions", body)[1]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 20
    assert second["choices"] == first["choices"]
    assert len(seen) == 1
