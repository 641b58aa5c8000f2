"""Ten thousand mixed requests: nothing is leaked, nothing is stuck, nothing answers 5xx.

Seen with the prefix cache on (16 MiB of snapshots): 76.8 MB of anonymous memory and swap after 1,000 requests, 79.0
after 2,000, 79.4 after 4,000, 79.7 after 8,000, 79.8 after 10,000, each time after `malloc_trim`; as many Python
objects at the end as at the beginning (56,400); 7,518 snapshots evicted; 6,626 answers 200, 1,129 refusals, 2,245
clients that left; 160 s.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import http.client
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ingot
from tests.engine.accounts import check_accounts
from tests.serve.running import serving, until, user
from tests.serve.test_scripted_server import TOOL

REQUESTS, CLIENTS = 10_000, 6
GROWTH = 4 << 20  # bytes after the first fifth: what the allocator breaks up (seen: 0.7 MB, and less and less of it)
CACHE = 16 << 20  # bytes of snapshots: full after some 800 requests
WORDS = 256 << 10  # bytes of turns and of answers that are remembered: full as soon
WRONG = ({"messages": []}, {"temperature": 9999}, {"nonsense": 1}, {"max_tokens": 10**9}, {"tool_choice": "required"})


def private_bytes():
    """Anonymous memory, in RAM or swapped out, without what the allocator could give back."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)
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


def asked(pool, port, numbers):
    """The statuses of all. Some at a time: a pool keeps a kilobyte for each that waits in it."""
    found = set()
    for first in numbers[::250]:
        found |= set(pool.map(lambda number: one(port, number), range(first, min(first + 250, numbers[-1] + 1))))
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_ten_thousand_requests():
    model = ingot.load()
    settings = {"parallel": 4, "queue": CLIENTS * 4, "cache": CACHE}
    with serving(lambda: model, **settings) as running, ThreadPoolExecutor(CLIENTS) as pool:
        remembered = model.encoder.answers.known, model.encoder.turn_encoder.turns
        for recent in remembered:
            recent.most_bytes = WORDS
        asked(pool, running.port, range(REQUESTS // 5))
        assert all(recent.bytes > 0.9 * WORDS for recent in remembered)
        before, threads = private_bytes(), threading.active_count()
        statuses = asked(pool, running.port, range(REQUESTS // 5, REQUESTS))
        service = running.server.service
        until(lambda: service.open == 0 and not service.engine.busy)
        assert model.engine.states.tokens_held == 0
        assert model.engine.cache.evictions > 1000
        check_accounts(model.engine, service.engine._scheduler)
        assert statuses == {0, 200, 400}
        assert private_bytes() - before < GROWTH
        assert threading.active_count() == threads
        assert service.engine.errors == 0
        model.engine.cache.clear()
        assert model.engine.states._pages.taken == model.engine.states._slots.taken == 0
