"""What a server makes of given words: the ids are scripted, everything between them and the client is real."""

from __future__ import annotations

import json

import pytest

from ingot.serve.metrics import Metrics
from tests.prompt.parsing import tool
from tests.serve.conftest import CALL, SAYS
from tests.serve.running import user

TOOL = tool("add", a={"type": "integer"}, b={"type": "integer"})
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
ON = {"chat_template_kwargs": {"enable_thinking": True}}


def joined(events):
    """The message that the chunks of a stream make, per choice, and their finish reasons."""
    found: dict[int, dict] = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            made = found.setdefault(choice["index"], {"content": "", "reasoning": "", "calls": [], "end": None})
            delta = choice["delta"]
            made["content"] += delta.get("content") or ""
            made["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", ()):
                if call["index"] == len(made["calls"]):
                    made["calls"].append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
                made["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
            made["end"] = choice["finish_reason"] or made["end"]
    return found


def test_an_answer_in_one_piece(served):
    body = served.chat("hello", **OFF)
    assert body["object"] == "chat.completion"
    assert body["model"] == "scripted"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": SAYS["hello"], "refusal": None}
    assert choice["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


@pytest.mark.parametrize("said", ["hello", "unicode", "nothing"])
def test_a_stream_says_what_the_whole_answer_says(served, said):
    events = list(served.stream(said, stream_options={"include_usage": True}, **OFF))
    assert events[-1] == "[DONE]"
    assert joined(events)[0]["content"] == SAYS[said]
    assert joined(events)[0]["end"] == "stop"
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == served.chat(said, **OFF)["usage"]
    assert all(event["usage"] is None for event in events[:-2])
    assert len({event["id"] for event in events[:-1]}) == 1
    assert "�" not in json.dumps(events, ensure_ascii=False)


def test_without_include_usage_there_is_none(served):
    assert all("usage" not in event for event in list(served.stream("hello", **OFF))[:-1])


def test_tool_calls(served):
    message = served.chat("call", tools=[TOOL], **OFF)["choices"][0]
    assert message["finish_reason"] == "tool_calls"
    (call,) = message["message"]["tool_calls"]
    assert call["type"] == "function"
    assert json.loads(call["function"]["arguments"]) == {"a": 17, "b": 25}


def test_tool_calls_stream(served):
    (made,) = joined(list(served.stream("two calls", tools=[TOOL], **OFF))).values()
    assert made["end"] == "tool_calls"
    assert [json.loads(call["arguments"]) for call in made["calls"]] == [{"a": 17, "b": 25}] * 2
    assert [call["name"] for call in made["calls"]] == ["add", "add"]
    assert len({call["id"] for call in made["calls"]}) == 2
    assert made["content"].strip() == ""


def test_tool_choice_none_shows_the_model_no_tools(served):
    message = served.chat("call", tools=[TOOL], tool_choice="none", **OFF)["choices"][0]
    assert "tool_calls" not in message["message"]
    assert CALL in message["message"]["content"]
    with_tools = served.chat("call", tools=[TOOL], **OFF)["usage"]["prompt_tokens"]
    assert served.chat("call", tools=[TOOL], tool_choice="none", **OFF)["usage"]["prompt_tokens"] < with_tools


def test_reasoning_has_its_own_field(served):
    body = served.chat("think", **ON)
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] == "17 and 25\nmake 42"
    assert message["content"] == "It is 42."
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 5
    made = joined(list(served.stream("think", **ON)))[0]
    assert (made["reasoning"], made["content"]) == ("17 and 25\nmake 42", "It is 42.")


@pytest.mark.parametrize("stop", ["world", ["never", "world"]])
def test_a_stop_string_ends_the_answer_and_frees_its_place(served, reciting, stop):
    body = served.chat("hello", stop=stop, **OFF)
    assert body["choices"][0]["message"]["content"] == "Hello "
    assert body["choices"][0]["finish_reason"] == "stop"
    assert joined(list(served.stream("hello", stop=stop, **OFF)))[0]["content"] == "Hello "
    assert reciting.engine.states.tokens_held == 0


def test_the_length_is_kept(served):
    for name in ("max_tokens", "max_completion_tokens"):
        body = served.chat("forever", **{name: 7}, **OFF)
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 7


@pytest.mark.parametrize("said", ["hello", "unicode"])
def test_n_answers(served, said):
    body = served.chat(said, n=3, logprobs=True, **OFF)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {SAYS[said]}
    alone = served.chat(said, **OFF)["usage"]
    assert body["usage"]["prompt_tokens"] == alone["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == 3 * alone["completion_tokens"]
    made = joined(list(served.stream(said, n=3, **OFF)))
    assert {index: one["content"] for index, one in made.items()} == dict.fromkeys(range(3), SAYS[said])


def test_logprobs_of_a_chat_are_the_same_in_a_stream(served):
    content = served.chat("hello", logprobs=True, top_logprobs=2, **OFF)["choices"][0]["logprobs"]["content"]
    assert "".join(one["token"] for one in content[:-1]) == SAYS["hello"]
    assert all(one["logprob"] == pytest.approx(0, abs=1e-6) for one in content)
    assert all(len(one["top_logprobs"]) == 2 for one in content)
    events = list(served.stream("hello", logprobs=True, top_logprobs=2, **OFF))[:-1]
    told = [event["choices"][0]["logprobs"] for event in events]
    assert [one for some in told if some for one in some["content"]] == content


def complete(served, **body):
    status, answer, _ = served.ask("/v1/completions", body)
    assert status == 200, answer
    return answer


def test_completions_of_several_prompts(served, reciting):
    ids = reciting.tokenizer.encode("unicode")
    body = complete(served, prompt=["hello", "unicode"], n=2, max_tokens=99)
    assert [choice["text"] for choice in body["choices"]] == [SAYS["hello"]] * 2 + [SAYS["unicode"]] * 2
    assert body["object"] == "text_completion"
    assert complete(served, prompt=ids, max_tokens=99)["choices"][0]["text"] == SAYS["unicode"]
    assert complete(served, prompt=[ids, ids], max_tokens=99)["choices"][1]["text"] == SAYS["unicode"]
    assert complete(served, prompt="forever")["usage"]["completion_tokens"] == 16  # OpenAI's default


def test_logprobs_of_a_completion_are_the_same_in_a_stream(served):
    asked = {"prompt": "hello", "logprobs": 2, "max_tokens": 99, "stop": "what"}
    told = complete(served, **asked)["choices"][0]["logprobs"]
    assert "".join(told["tokens"]).startswith("Hello world, ")
    lengths = [len(token) for token in told["tokens"]]
    assert told["text_offset"] == [sum(lengths[:i]) for i in range(len(lengths))]
    assert all(len(top) == 2 for top in told["top_logprobs"])
    connection = served.connection()
    connection.request("POST", "/v1/completions", json.dumps({**asked, "stream": True}))
    lines = [line[6:] for line in connection.getresponse().read().split(b"\n") if line.startswith(b"data: {")]
    connection.close()
    parts = [json.loads(line)["choices"][0] for line in lines]
    assert "".join(part["text"] for part in parts) == "Hello world, "
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in parts if part["logprobs"] for one in part["logprobs"][name]] == told[name]


def test_a_developer_speaks_for_the_system_and_a_tool_answers(served):
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        user("hello"),
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        user("unicode"),
    ]
    status, body, _ = served.ask("/v1/chat/completions", {"messages": messages, "tools": [TOOL], **OFF})
    assert status == 200
    assert body["choices"][0]["message"]["content"] == SAYS["unicode"]


def test_models(served):
    status, body, _ = served.ask("/v1/models")
    assert (status, [model["id"] for model in body["data"]]) == (200, ["scripted"])
    status, body, _ = served.ask("/v1/models/scripted")
    assert (status, body["id"], body["max_model_len"]) == (200, "scripted", 2048)
    status, body, _ = served.ask("/v1/models/gpt-9/x")
    assert (status, body["error"]["code"]) == (404, "model_not_found")


def test_tokenize_and_back(served, reciting):
    text = "hello grüße <|im_end|>"
    for name in ("content", "prompt"):
        status, body, _ = served.ask("/tokenize", {name: text})
        assert status == 200
        assert body["tokens"] == reciting.tokenizer.encode(text)
        assert body["count"] == len(body["tokens"])
    plain = served.ask("/tokenize", {"content": text, "parse_special": False})[1]["tokens"]
    assert plain == reciting.tokenizer.encode(text, special=False)
    pieces = served.ask("/tokenize", {"content": "hello", "with_pieces": True})[1]["tokens"]
    assert "".join(piece["piece"] for piece in pieces) == "hello"
    status, body, _ = served.ask("/detokenize", {"tokens": reciting.tokenizer.encode(text)})
    assert (status, body["content"], body["prompt"]) == (200, text, text)
    prompt = served.ask("/tokenize", {"messages": [user("hello")], **OFF})[1]
    assert prompt["count"] == served.chat("hello", **OFF)["usage"]["prompt_tokens"]


def test_metrics(fresh):
    fresh.chat("hello", **OFF)
    fresh.ask("/v1/chat/completions", {"nonsense": 1})
    status, text, headers = fresh.ask("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    lines = text.splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert samples['ingot_requests_total{endpoint="/v1/chat/completions",status="200"}'] == "1"
    assert samples['ingot_requests_total{endpoint="/v1/chat/completions",status="400"}'] == "1"
    made = samples["ingot_completion_tokens_total"]
    assert float(made) > 3
    assert samples["vllm:generation_tokens_total"] == samples["llamacpp:tokens_predicted_total"] == made
    assert samples["vllm:num_requests_running"] == samples["llamacpp:requests_processing"] == "0"
    assert samples["ingot_time_to_first_token_seconds_count"] == "1"
    assert samples['ingot_request_seconds_bucket{le="+Inf"}'] == "1"
    typed = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(typed) == len(set(typed))
    for name in ("ingot_passes_total", "ingot_drafts_total", "vllm:kv_cache_usage_perc", "llamacpp:requests_deferred"):
        assert name in typed


def test_metrics_tell_all_digits():
    text = Metrics().text({"passes_total": 12345678, "kv_usage_ratio": 0.123456789})
    assert {"ingot_passes_total 12345678", "ingot_kv_usage_ratio 0.123456789"} <= set(text.split("\n"))
