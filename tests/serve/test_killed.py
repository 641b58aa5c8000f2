"""`ingot serve` killed again and again while it answers and writes: what is on disk afterwards is right, or not there.

`pytest -m slow`: ten rounds take half a minute.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

import ingot
from tests.cli.test_serve import NUGGET, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.skipif(not NUGGET, reason="the nugget's weights are not here"),
]
ROUNDS, CLIENTS = 10, 4
RULES = [f"Rule {i}: {f'greet the user and add {i} to {7 * i} ' * 40}" for i in range(3)]
ASKED = [
    [{"role": "system", "content": rules}, {"role": "user", "content": f"What is {12 + i} + {25 + place}?"}]
    for place, rules in enumerate(RULES)
    for i in range(3)
]
SETTINGS = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, "logprobs": True}


def ask(port, messages):
    """The answer's words and the logprobs of its tokens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": messages, **SETTINGS}))
        response = connection.getresponse()
        body = json.loads(response.read())
    finally:
        connection.close()
    assert response.status == 200, body
    choice = body["choices"][0]
    return choice["message"]["content"], [one["logprob"] for one in choice["logprobs"]["content"]]


def metrics(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("ingot_") and "{" not in line}


@pytest.fixture(scope="module")
def right():
    """What each answer must be: alone, in a process that keeps nothing."""
    model = ingot.load()
    answers = [model.chat(messages, **SETTINGS) for messages in ASKED]
    return [(made.content, [one.logprob for one in made.logprobs]) for made in answers]


def test_killed_while_it_answers_and_writes(right, tmp_path):
    rng, answered = random.Random(5), []
    stop = threading.Event()

    def client(port, seed):
        order = random.Random(seed)
        with suppress(OSError, http.client.HTTPException, ValueError):  # it was killed in the middle
            while not stop.is_set():
                place = order.randrange(len(ASKED))
                answered.append(ask(port, ASKED[place]) == right[place])

    for turn in range(ROUNDS):
        with started("--cache-disk", "64", INGOT_CACHE=str(tmp_path)) as (process, port):
            stop.clear()
            with ThreadPoolExecutor(CLIENTS) as pool:
                for place in range(CLIENTS):
                    pool.submit(client, port, 10 * turn + place)
                time.sleep(rng.uniform(0.2, 1.5))
                process.kill()
                stop.set()
    assert len(answered) > ROUNDS
    assert all(answered)
    with started("--cache-disk", "64", INGOT_CACHE=str(tmp_path)) as (_, port):
        assert [ask(port, messages) for messages in ASKED] == right
        found = metrics(port)
    assert found["ingot_cache_disk_hits_total"] > 0
    assert found["ingot_cache_disk_errors_total"] == 0
