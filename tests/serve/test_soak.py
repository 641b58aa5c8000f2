"""Ten thousand mixed requests: nothing is leaked, nothing is stuck, nothing answers 5xx."""

from __future__ import annotations

import http.client
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ingot
from tests.serve.running import serving, until, user
from tests.serve.test_scripted_server import TOOL

REQUESTS, CLIENTS, GROWTH = (
    10_000,
    6,
    64 << 20,
)  # bytes: the allocator's arenas of six threads (seen: 16 MiB)
WRONG = ({"messages": []}, {"temperature": 9999}, {"nonsense": 1}, {"max_tokens": 10**9}, {"tool_choice": "required"})


def private_bytes():
    """Anonymous memory, in RAM or swapped out."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap"))


def one(port, number):
    """The status of one request of a kind that its number chooses; 0 for one whose client left."""
    dice = random.Random(number)
    kind = dice.choice(["short", "short", "long", "tool", "think", "n", "leave", "leave early", "wrong"])
    body = {"messages": [user(f"What is {dice.randrange(999)} + {dice.randrange(999)}?")], "max_tokens": 30}
    body |= {"stream": dice.random() < 0.5 or kind == "leave"}
    body |= {
        "long": {"messages": [user("one two three " * dice.randrange(1, 200))], "max_tokens": 4},
        "tool": {"tools": [TOOL]},
        "think": {"chat_template_kwargs": {"enable_thinking": True}},
        "n": {"n": dice.randrange(2, 5), "logprobs": True},
        "leave": {"ignore_eos": True, "max_tokens": 500},
        "leave early": {"ignore_eos": True, "max_tokens": 500},
        "wrong": dice.choice(WRONG),
    }.get(kind, {})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        if kind == "leave early":
            return 0
        response = connection.getresponse()
        if kind == "leave":
            response.read(dice.randrange(1, 900))
            return 0
        data = response.read()
        assert response.status != 200 or not body["stream"] or data.endswith(b"data: [DONE]\n\n"), data[-300:]
        assert response.status == (400 if kind == "wrong" else 200), data[-300:]
        return response.status
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_ten_thousand_requests():
    model = ingot.load()
    with serving(lambda: model, parallel=4, queue=CLIENTS * 4) as running, ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda number: one(running.port, number), range(REQUESTS // 5)))
        before, threads = private_bytes(), threading.active_count()
        statuses = list(pool.map(lambda number: one(running.port, number), range(REQUESTS // 5, REQUESTS)))
        service = running.server.service
        until(lambda: service.open == 0 and service.engine.running == 0)
        states = model.engine.states
        assert states.tokens_held == 0
        assert states._slots.taken == states.snapshots
        assert set(statuses) == {0, 200, 400}
        assert private_bytes() - before < GROWTH
        assert threading.active_count() == threads
        assert service.engine.errors == 0
