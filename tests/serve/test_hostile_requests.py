"""Requests that are wrong, and what each is told: a status, a sentence, the field. Nothing is dropped in silence."""

from __future__ import annotations

import socket
import time

import pytest

from ingot.serve.body import parse_object
from ingot.serve.errors import ApiError
from ingot.serve.limits import most
from tests.serve.running import serving, user

HELLO = [user("hello")]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5E"
    "rkJggg=="
)


def image(url):
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


# what is sent beside the messages -> (the field that is named, words of the sentence)
CHAT = [
    ({"temprature": 1}, "temprature", "did you mean temperature?"),
    ({"x" * 500: 1}, None, "there is no field"),
    ({"temperature": "hot"}, "temperature", "it must be from 0"),
    ({"temperature": -1}, "temperature", "it must be from 0"),
    ({"temperature": 1e300}, "temperature", "to 100"),
    ({"temperature": True}, "temperature", "it must be from 0"),
    ({"top_p": 0}, "top_p", "above 0"),
    ({"top_k": 1.5}, "top_k", "an integer"),
    ({"min_p": 2}, "min_p", "from 0 to 1"),
    ({"repetition_penalty": 0}, "repetition_penalty", "above 0"),
    ({"presence_penalty": 3}, "presence_penalty", "from -2 to 2"),
    ({"dry_multiplier": []}, "dry_multiplier", "from 0"),
    ({"dry_sequence_breakers": "a"}, "dry_sequence_breakers", "a list of texts"),
    ({"dry_sequence_breakers": ["a"] * 100}, "dry_sequence_breakers", "64 are the most"),
    ({"dry_sequence_breakers": ["a" * 5000]}, "dry_sequence_breakers", "1,024 are the most"),
    ({"dry_sequence_breakers": ["\ud800"]}, "dry_sequence_breakers", "surrogate"),
    ({"seed": 10**40}, "seed", "a 64-bit integer"),
    ({"seed": "7"}, "seed", "a 64-bit integer"),
    ({"max_tokens": 0}, "max_tokens", "1 or more"),
    ({"max_tokens": -5}, "max_tokens", "1 or more"),
    ({"max_tokens": 10**30}, "max_tokens", "together they may have 2,048"),
    ({"max_tokens": 2.0}, "max_tokens", "a whole number"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "give one of them"),
    ({"n": 0}, "n", "from 1"),
    ({"n": 5}, "n", "gives 4 answers"),
    ({"n": 10**9}, "n", "from 1 to 128"),
    ({"n": "2"}, "n", "an integer"),
    ({"n": "2" * 10_000}, "n", "an integer"),
    ({"top_k": ["2"] * 10_000}, "top_k", "an integer"),
    ({"cache_prompt": "no" * 10_000}, "cache_prompt", "True or False"),
    ({"stop": {"a" * 10_000: 1}}, "stop", "a string or a list"),
    ({"logit_bias": {"x" * 10_000: 1}}, "logit_bias", "token ids"),
    ({"stop": 5}, "stop", "a string or a list"),
    ({"stop": [""]}, "stop", "non-empty"),
    ({"stop": ["a"] * 99}, "stop", "at most 32"),
    ({"stop": "a" * 5000}, "stop", "1,024 are the most"),
    ({"stop_token_ids": 5}, "stop_token_ids", "a list of whole numbers"),
    ({"stop_token_ids": [-1]}, "stop_token_ids", "this model's token ids are 0 to"),
    ({"stop_token_ids": [10**30]}, "stop_token_ids", "this model's token ids are 0 to"),
    ({"stop_token_ids": [1] * 5000}, "stop_token_ids", "1,024 are the most"),
    ({"logit_bias": []}, "logit_bias", "an object"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
    ({"logit_bias": {"1": 1000}}, "logit_bias[1]", "from -100 to 100"),
    ({"logit_bias": {"999999": 1}}, "logit_bias", "this model's token ids"),
    ({"logit_bias": {str(i): 0 for i in range(3000)}}, "logit_bias", "1,024 are the most"),
    ({"logprobs": 3}, "logprobs", "true or false"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs is False"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
    ({"min_tokens": 9, "max_tokens": 5}, "min_tokens", "more than max_tokens"),
    ({"ignore_eos": "yes"}, "ignore_eos", "True or False"),
    ({"preset": "poetry"}, "preset", "has general"),
    ({"preset": ["general"]}, "preset", "a text"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream is not true"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "include_usage"),
    ({"stream": True, "stream_options": 1}, "stream_options", "an object"),
    ({"tools": {}}, "tools", "a list"),
    ({"tools": [1]}, "tools[0]", "an object"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'function'"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        "tools[0].function.strict",
        "schema",
    ),
    ({"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(200)]}, "tools", "128 are the most"),
    ({"tool_choice": "required"}, "tool_choice", "grammar"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "grammar"),
    ({"parallel_tool_calls": False}, "parallel_tool_calls", "grammar"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "grammar"),
    ({"response_format": "json"}, "response_format", "an object"),
    ({"functions": []}, "functions", "give tools"),
    ({"audio": {}}, "audio", "answers are text"),
    ({"modalities": ["text", "audio"]}, "modalities", "answers are text"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "enable_thinking"),
    ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking", "true or false"),
    ({"chat_template_kwargs": {"documents": []}}, "chat_template_kwargs.documents", "enable_thinking"),
    ({"chat_template_kwargs": {"preserve_thinking": 1}}, "chat_template_kwargs.preserve_thinking", "true or false"),
    ({"cache_prompt": "no"}, "cache_prompt", "True or False"),
    ({"cache_salt": 5}, "cache_salt", "a text"),
    ({"cache_salt": "s" * 5000}, "cache_salt", "1,024 are the most"),
    ({"cache_salt": "\ud800"}, "cache_salt", "surrogate"),
    ({"\ud800": 1}, "?", "there is no field"),
    ({"debug": True}, "debug", "an object"),
    ({"debug": {"cache": 1}}, "debug.cache", "true or false"),
    ({"debug": {"cash": True}}, "debug.cash", "did you mean cache?"),
    ({"debug": {"cache": True}}, "debug.cache", "runs without --debug-cache"),
    ({"prompt_cache_options": {"mode": "none"}}, "prompt_cache_options.mode", "decided by use"),
    ({"prompt_cache_retention": "1y"}, "prompt_cache_retention", "decided by use"),
    (
        {"messages": [{**HELLO[0], "cache_control": {"type": "x"}}]},
        "messages[0].cache_control",
        "ephemeral",
    ),
    ({"messages": [{**HELLO[0], "cache_control": {"type": "ephemeral"}}] * 5}, None, "hold 5 cache breakpoints"),
    ({"store": True}, "store", "nothing is stored"),
    ({"id_slot": "first"}, "id_slot", "a whole number"),
    ({"service_tier": "priority"}, "service_tier", "one class of service"),
    ({"grammar": "root ::= x"}, "grammar", "not supported"),
    ({"user": "u" * 5000}, "user", "1,024 are the most"),
    ({"user": 5}, "user", "a text"),
    ({"metadata": "x"}, "metadata", "an object"),
    ({"messages": None}, "messages", "is missing"),
    ({"messages": "hello"}, "messages", "a list"),
    ({"messages": []}, "messages", "is empty"),
    ({"messages": [5]}, "messages[0]", "an object"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "system, developer"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "a text"),
    ({"messages": [{"role": "user", "content": "x", "cache": 1}]}, "messages[0]", "unknown field"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "surrogate"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "must follow"),
    ({"messages": HELLO * 5000}, "messages", "4,096 are the most"),
    ({"messages": [user("hello " * 3000)]}, None, "a prompt and its answer may have 2,048"),
    ({"messages": [user("a" * 16 * 2049)]}, "messages", "32,768 are the most for 2,048 tokens"),
    ({"messages": [user([{"type": "text", "text": "a" * 20_000}] * 2)]}, "messages", "32,768 are the most"),
    ({"messages": [user("data:" + "a" * 40_000)]}, "messages", "32,768 are the most"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "description": "data:" + "d" * 40_000}}]},
        "messages",
        "32,768 are the most",
    ),
    ({"messages": image("/etc/passwd")}, "messages[0].content[0].image_url.url", "opens no files"),
    ({"messages": image("file:///etc/passwd")}, "messages[0].content[0].image_url.url", "opens no files"),
    ({"messages": image("http://169.254.169.254/")}, "messages[0].content[0].image_url.url", "no addresses"),
    ({"messages": image("DATA:image/png;base64,")}, "messages[0].content[0].image_url.url", "data: URL"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}]}, None, "opens no files"),
    ({"messages": [{"role": "user", "content": [{"image": "/etc/passwd"}]}]}, None, "opens no files"),
    ({"messages": [{"role": "user", "content": [{"type": "video", "video": ["a.png"]}]}]}, None, "opens no files"),
    ({"messages": [{"role": "user", "content": [{"type": "video", "video": [["a.png"]]}]}]}, None, "opens no files"),
    (
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": "a.mp4"}]}]},
        None,
        "opens no files",
    ),
    (
        {"messages": [*HELLO, {"role": "tool", "content": [{"type": "image", "image": "a.png"}]}]},
        None,
        "opens no files",
    ),
    ({"messages": image(PIXEL)}, "messages[0].content[0].image_url.url", "reads text only"),
    ({"messages": image(PIXEL) * 20}, "messages", "16 are the most"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, None, "must be 'text'"),
]


@pytest.mark.parametrize(("more", "param", "words"), CHAT, ids=lambda value: str(value)[:50])
def test_a_chat_that_is_wrong(served, reciting, more, param, words):
    before = len(reciting.engine.root.passes)
    status, body, _ = served.ask("/v1/chat/completions", {"messages": HELLO, **more})
    assert status == 400, body
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]
    assert len(error["message"]) < 1000
    if param is not None:
        assert error["param"] == param
    assert len(reciting.engine.root.passes) == before


COMPLETION = [
    ({}, "prompt", "is missing"),
    ({"prompt": 5}, "prompt", "a text, token ids"),
    ({"prompt": []}, "prompt", "a text, token ids"),
    ({"prompt": ""}, "prompt", "a text, token ids"),
    ({"prompt": [1.5]}, "prompt[0]", "a text or token ids"),
    ({"prompt": [[]]}, "prompt[0]", "a text or token ids"),
    ({"prompt": [True]}, "prompt[0]", "a text or token ids"),
    ({"prompt": [-1]}, "prompt", "token ids are 0 to"),
    ({"prompt": [10**30]}, None, ""),
    ({"prompt": ["a"] * 100}, "prompt", "64 are the most"),
    ({"prompt": ["a", [10**6]]}, None, "token ids are 0 to"),
    ({"prompt": ["a", "a" * 40_000]}, "prompt", "32,768 are the most"),
    ({"prompt": "a", "echo": True}, "echo", "join it"),
    ({"prompt": "a", "suffix": "b"}, "suffix", "the middle"),
    ({"prompt": "a", "best_of": 3}, "best_of", "not ranked"),
    ({"prompt": "a", "logprobs": 99}, "logprobs", "from 0 to 20"),
    ({"prompt": "a", "logprobs": True}, "logprobs", "from 0 to 20"),
    ({"prompt": ["a", ""]}, "prompt[1]", "a text or token ids"),
    ({"prompt": "a", "messages": HELLO}, "messages", "there is no field"),
]


@pytest.mark.parametrize(("body", "param", "words"), COMPLETION, ids=lambda value: str(value)[:50])
def test_a_completion_that_is_wrong(served, body, param, words):
    status, answer, _ = served.ask("/v1/completions", body)
    assert status == 400, answer
    assert words in answer["error"]["message"]
    if param is not None:
        assert answer["error"]["param"] == param


BODIES = [
    (b"", "is not valid JSON"),
    (b"{", "is not valid JSON"),
    (b"[]", "must be an object"),
    (b"null", "must be an object"),
    (b'{"messages": [], "messages": []}', "twice"),
    (b'{"temperature": NaN}', "NaN"),
    (b'{"temperature": Infinity}', "Infinity"),
    (b'{"seed": ' + b"9" * 10_000 + b"}", "too many digits"),
    (b'{"user": "\xff\xfe"}', "is not UTF-8 (byte 10)"),
    (b'{"metadata": ' + b"[" * 100 + b"]" * 100 + b"}", "64 levels"),
    (b'{"metadata": ' + b'{"a":' * 100_000, "64 levels"),
    (b'{"metadata": [' + b"0," * (2 << 20) + b"0]}", "values"),
]


@pytest.mark.parametrize(("data", "words"), BODIES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_a_body_that_is_wrong(served, path, data, words):
    status, body, _ = served.ask(path, data)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert words in body["error"]["message"]


def test_a_text_of_escapes_without_an_end_takes_no_time():
    """Quadratic time here holds the interpreter's lock, and with it every stream."""
    began = time.thread_time()
    for end in (b"", b"\\", b'"'):
        with pytest.raises(ApiError, match="not valid JSON"):
            parse_object(b'{"a":"' + b'\\"' * 10_000 + end)
    assert time.thread_time() - began < 2


def test_more_text_than_tokens_can_be_is_not_encoded(served):
    """Thirty megabytes of it took a minute and ten gigabytes."""
    status, body, _ = served.ask("/tokenize", {"content": "a" * 40_000})
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


def test_brackets_inside_texts_are_no_depth(served):
    assert served.ask("/tokenize", {"content": '[{"\\' * 200})[0] == 200


def test_a_body_that_is_too_large(served):
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=100)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {most('body') + 1}\r\n\r\n"
    connection.sendall(head.encode())
    assert b" 413 " in connection.recv(999)  # refused by what it says, before it is sent
    connection.close()
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=100)
    connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    with pytest.raises(OSError):
        connection.sendall(60 * piece)
    connection.close()
    assert served.ask("/health")[0] == 200


PLACES = [
    ("GET", "/v1/chat/completions", 405),
    ("POST", "/v1/models", 405),
    ("DELETE", "/health", 405),
    ("GET", "/", 404),
    ("POST", "/v1/embeddings", 404),
    ("GET", "/v1/models/../../etc/passwd", 404),
    ("GET", "/" + "a" * 3000, 404),
]


@pytest.mark.parametrize(("method", "path", "status"), PLACES, ids=lambda value: str(value)[:40])
def test_a_place_that_is_wrong(served, method, path, status):
    found, body, headers = served.ask(path, method=method)
    assert found == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert len(body["error"]["message"]) < 300
    if status == 405:
        assert "allow" in headers


def test_an_unknown_model(served):
    status, body, _ = served.ask("/v1/chat/completions", {"messages": HELLO, "model": "gpt-4o"})
    assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "[", "localhost@evil"]
)
def test_a_foreign_host(served, host):
    status, body, _ = served.ask("/v1/models", headers={"Host": host})
    assert (status, body["error"]["type"]) == (403, "permission_error")


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
def test_our_own_hosts(served, host):
    assert served.ask("/v1/models", headers={"Host": host})[0] == 200


def test_a_foreign_page(served):
    status, body, headers = served.ask("/tokenize", {"content": "a"}, headers={"Origin": "https://evil.example"})
    assert status == 403
    assert "--cors" in body["error"]["message"]
    assert "access-control-allow-origin" not in headers
    own = f"http://localhost:{served.port}"
    assert served.ask("/tokenize", {"content": "a"}, headers={"Origin": own, "Host": own[7:]})[0] == 200


def test_a_page_that_may_ask(reciting):
    page = "https://app.example"
    with serving(lambda: reciting, origins=[page]) as running:
        status, _, headers = running.ask("/tokenize", {"content": "a"}, headers={"Origin": page})
        assert (status, headers["access-control-allow-origin"]) == (200, page)
        asked = {"Origin": page, "Access-Control-Request-Method": "POST"}
        status, _, headers = running.ask("/v1/chat/completions", method="OPTIONS", headers=asked)
        assert (status, headers["access-control-allow-origin"]) == (200, page)
        assert "authorization" in headers["access-control-allow-headers"]
        assert running.ask("/tokenize", {"content": "a"}, headers={"Origin": "https://evil.example"})[0] == 403


@pytest.mark.parametrize(
    ("page", "may"),
    [
        ("http://localhost", True),
        ("https://localhost:3000", True),
        ("http://127.0.0.1:5173", True),
        ("http://[::1]:3000", True),
        ("http://localhost.evil.example", False),
        ("http://notlocalhost", False),
        ("http://[::1", False),
        ("null", False),
    ],
)
def test_pages_of_this_machine(reciting, page, may):
    with serving(lambda: reciting, origins=["localhost"]) as running:
        status, _, headers = running.ask("/tokenize", {"content": "a"}, headers={"Origin": page})
        assert (status, headers.get("access-control-allow-origin")) == ((200, page) if may else (403, None))


KEYS = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"Authorization": "Bearer secre\u00e9"}]


def test_the_key(reciting):
    with serving(lambda: reciting, key="secret") as running:
        for headers in KEYS:
            for path in ("/v1/models", "/metrics", "/nowhere", "/tokenize"):
                status, body, found = running.ask(path, headers={k: v.encode("latin-1") for k, v in headers.items()})
                assert (status, body["error"]["code"]) == (401, "invalid_api_key")
                assert found["www-authenticate"] == "Bearer"
        for headers in (
            {"Authorization": "Bearer secret"},
            {"authorization": "bearer secret"},
            {"X-Api-Key": "secret"},
        ):
            assert running.ask("/v1/models", headers=headers)[0] == 200
        assert running.ask("/health")[0] == running.ask("/ready")[0] == 200
        assert running.ask("/v1/models", headers={"X-Api-Key": "secret", "Host": "lan.example"})[0] == 200


def test_a_head_that_is_too_large(served):
    assert served.ask("/health", headers={"X-Long": "a" * 20_000})[0] == 431
    assert served.ask("/health", headers={"X-Long": "a" * 10_000})[0] == 200


def test_a_text_cannot_end_the_turn_in_a_log(served, caplog):
    """Nothing that a client says is in the log."""
    with caplog.at_level("INFO", "ingot.serve"):
        served.chat("hello SECRETWORD")
        served.ask("/v1/chat/completions", {"SECRETWORD": 1})
    assert "POST /v1/chat/completions 200" in caplog.text
    assert "SECRETWORD" not in caplog.text
