"""The guide says what the records say; the client of the benchmarks measures what it is said to measure."""

from __future__ import annotations

import argparse

import pytest

from bench import served_results, servers
from bench.agent_trace import RESULT, TOOLS, Trace
from bench.conversations import Client, summary
from bench.results import RESULTS, read_records
from bench.served_load import load
from bench.served_load import summary as load_summary
from bench.servers import Answered, Server
from ingot.prompt import normalise_messages, normalise_tools
from tests.serve.running import serving

MACHINE = {"cpu": "A Processor", "cpus": 2}


class Process:
    pid = 1


@pytest.fixture
def server(served):
    return Server("ours", served.port, Process(), "")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from tests.scripted.model import scripted_model

    def recite(prompt):
        return "ab cd" if "<think>\n\n</think>" in prompt[-20:] else "I think\n</think>\n\nSaid."

    model = scripted_model(tmp_path_factory.mktemp("scripted"), recite, max_position_embeddings=8192)
    with serving(lambda: model, parallel=4) as running:
        yield running


def test_the_guide_has_the_tables_of_the_records():
    text = served_results.GUIDE.read_text(encoding="utf-8")
    records = {name: read_records(RESULTS / f"{name}.jsonl") for name in served_results.TABLES}
    assert served_results.with_tables(text, records) == text, "run `python -m bench.served_results`"


def test_a_streamed_answer_is_timed(server):
    body = {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"enable_thinking": True}}
    answer = servers.ask(server, "/v1/chat/completions", body)
    assert (answer.message["reasoning_content"], answer.message["content"]) == ("I think", "Said.")
    assert answer.tokens == answer.usage["completion_tokens"] > 3
    assert answer.asked < answer.times[0] <= answer.times[-1] <= answer.ended
    assert sorted(answer.times) == answer.times
    with pytest.raises(RuntimeError, match="400"):
        servers.ask(server, "/v1/chat/completions", {"messages": []})


def test_a_load_is_all_users_answers(server, monkeypatch):
    said = []

    def ask(server, args, seed, words):
        said.append(seed)
        return servers.ask(server, "/v1/completions", {"prompt": "hi", "max_tokens": 3})

    monkeypatch.setattr("bench.served_load.ask", ask)
    answers = load(server, argparse.Namespace(requests=2, least=6), 3, [])
    assert sorted(said) == list(range(6))
    assert len(answers) == 6
    found = load_summary(answers)
    assert found["tok_s"] == pytest.approx(sum(a.tokens for a in answers) / found["wall_s"])


def test_what_a_load_tells():
    times = [[0.5, 0.6, 0.7], [1.0, 1.1, 2.0]]
    answers = [Answered(0.0, one, one[-1], {"completion_tokens": 3}) for one in times]
    found = load_summary(answers)
    assert found["tok_s"] == 3.0
    assert found["user_tok_s"] == pytest.approx((10 + 2) / 2)
    assert (found["first_p50_s"], found["stall_s"]) == (0.75, pytest.approx(0.9))


def count(text):
    return len(text) // 2


def test_a_trace_has_the_lengths_it_should():
    trace = Trace(count, 0.1)
    assert abs(count(trace.result(3)["content"]) - RESULT * 0.1) < 6
    assert trace.result(3) == trace.result(3) != trace.result(4)
    assert len(trace.shorter(3)["content"]) < len(trace.result(3)["content"])
    call = {"role": "assistant", "content": "", "tool_calls": trace.call(1)}
    normalise_messages([trace.system(), trace.question(1), call, trace.result(1)])
    normalise_tools(TOOLS)


@pytest.mark.parametrize("style", ["returned", "dropped", "edited"])
def test_a_conversation(server, style, monkeypatch):
    """Eight turns of two requests; what a client keeps of an answer; a bound that knows what is new."""
    args = argparse.Namespace(scripted=False, pause=0, answer=0)
    client = Client(server, Trace(count, 0.02), style, args, [], 7)
    bodies = []

    def ask(server, path, body):
        bodies.append([dict(one) for one in body["messages"]])
        thinks = body["chat_template_kwargs"]["enable_thinking"]
        usage = {"prompt_tokens": 100, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 30}}
        said = (
            {"reasoning_content": "hm " * 9, "content": ""} if thinks else {"reasoning_content": "", "content": "well"}
        )
        return Answered(0.0, [0.1, 0.2], 0.3, usage, said)

    monkeypatch.setattr(servers, "ask", ask)
    client.run()
    assert [one["step"] for one in client.asked] == ["call", "answer"] * 8
    assert {one["recomputed"] for one in client.asked} == {70}
    thoughts = [one for one in client.messages if one.get("reasoning_content")]
    assert len(thoughts) == (0 if style == "dropped" else 8)
    assert [len(one) for one in bodies] == [2 + 2 * i for i in range(16)]
    cut = [one for one in client.messages if one["content"].endswith("[cut]")]
    assert len(cut) == (2 if style == "edited" else 0)
    question = count(client.trace.question(2)["content"])
    assert client.asked[2]["bound"] == question + 8 + count("well") + 64
    if style == "edited":
        assert client.asked[8]["bound"] > client.asked[6]["bound"] + 100


def test_a_scripted_conversation_has_the_clients_words(server, monkeypatch):
    """What the model says is asked for and dropped; all that is sent is new to the server."""
    args = argparse.Namespace(scripted=True, pause=0, answer=5)
    client = Client(server, Trace(count, 0.5), "returned", args, [], 7)
    usage = {"prompt_tokens": 100, "completion_tokens": 5}
    said = {"reasoning_content": "its own", "content": "its own"}
    monkeypatch.setattr(servers, "ask", lambda *given: Answered(0.0, [0.1], 0.3, usage, dict(said)))
    client.run()
    answers = [one for one in client.messages if one["role"] == "assistant"]
    assert [one["content"] for one in answers[1::2]] == [client.trace.words(2 * turn, 5) for turn in range(1, 9)]
    assert [one["reasoning_content"] for one in answers[::2]] == [client.trace.words(2 * t + 1, 5) for t in range(1, 9)]
    assert "its own" not in str(client.messages)


def conversation(who, style, recomputed):
    asked = [{"turn": 1, "prompt": 90, "recomputed": 90, "bound": 10, "first_s": 9.0}]
    asked += [{"turn": 2, "prompt": 100, "recomputed": n, "bound": 10, "first_s": n / 10} for n in recomputed]
    same = {"commit": "a", "size": "0.8B", "format": "q4", "scale": 1.0, "answer": 64, "pause": 6.0, "scripted": False}
    return {**same, "threads": 2, "machine": MACHINE, "who": who, "style": style, "asked": asked}


def test_the_table_of_conversations():
    ours = conversation("ours", "dropped", [5, 7, 9]) | {
        "restarted": {"first_s": 0.5},
        "cold": {"first_s": 20.0},
        "disk_bytes": 90 * 130_000,
        "kv_bytes": 20 * 130_000,
        "state_bytes": 10 * 130_000,
    }
    shown = served_results.conversation_table([ours, conversation("theirs", "dropped", [5, 20, 30])])
    assert "| dropped | ours | 300 | 21 | none | 0.70 | 0.90 | 0.50 | 20.00 | 12 | 1.50× | 2.25× |" in shown
    assert "| dropped | llama-server | 300 | 55 | 20 | 2.00 | 3.00 | – | – | – | – | – |" in shown
    assert "pauses for 6 seconds" in shown
    told = summary(ours)
    assert "0 of 3 requests over the bound" in told
    assert "(2.5%)" in told
    assert "disk 12 MB, 1.50 x (KV + a state a request), 2.25 x (KV + a state a question)" in told


def test_the_table_of_loads():
    same = {"commit": "a", "size": "0.8B", "format": "q4", "peer": "q4_0_pure", "prompt": 256, "answer": 96}
    same |= {"ours_options": "", "theirs_options": "", "threads": 2, "machine": MACHINE}
    one = dict.fromkeys(("tok_s", "user_tok_s", "first_p50_s", "first_p99_s", "stall_s"), 2.0)
    rows = [same | {"users": 4, "ours": one | {"tok_s": rate}, "theirs": one} for rate in (10.0, 30.0, 20.0)]
    shown = served_results.load_table([rows[0] | {"commit": "older", "users": 16}, *rows])
    assert "| 4 | 20.0 / 2.0 | 2.0 / 2.0 | 2.00 / 2.00 |" in shown
    assert "| 16 |" not in shown
