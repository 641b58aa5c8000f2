"""OpenAI's own client, which checks every response against OpenAI's schema, and the nugget's real answers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import pytest

import ingot
from tests.serve.conftest import SAYS
from tests.serve.running import serving, user
from tests.serve.test_scripted_server import TOOL

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")
NUGGET = resources.files("ingot").joinpath("nugget", "model.safetensors").is_file()
OFF = {"chat_template_kwargs": {"enable_thinking": False}}


def client_of(running, **settings):
    given = {"base_url": running.url, "api_key": "none", "max_retries": 0, **settings}
    return openai.OpenAI(**given, _strict_response_validation=True)


@pytest.fixture(scope="module")
def client(served):
    with client_of(served) as made:
        yield made


def test_chat(client):
    made = client.chat.completions.create(
        model="scripted", messages=[user("hello")], extra_body=OFF, seed=7, temperature=0.5, user="me", store=False
    )
    assert made.choices[0].message.content == SAYS["hello"]
    assert made.usage.prompt_tokens_details.cached_tokens == 0
    assert made.system_fingerprint.startswith("ingot-")


def test_stream(client):
    chunks = list(
        client.chat.completions.create(
            model="scripted",
            messages=[user("unicode")],
            extra_body=OFF,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == SAYS["unicode"]
    assert chunks[-1].usage.completion_tokens > 10


def test_tools(client):
    with client.chat.completions.stream(
        model="scripted", messages=[user("call")], tools=[TOOL], extra_body=OFF
    ) as stream:
        made = stream.get_final_completion()
    (call,) = made.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"a": 17, "b": 25}
    turn = [
        user("call"),
        made.choices[0].message.model_dump(exclude_none=True, exclude={"parsed"}),
        {"role": "tool", "tool_call_id": call.id, "content": "42"},
        user("hello"),
    ]
    for message in turn[1].get("tool_calls", ()):
        message["function"].pop("parsed_arguments", None)
    made = client.chat.completions.create(model="scripted", messages=turn, tools=[TOOL], extra_body=OFF)
    assert made.choices[0].message.content == SAYS["hello"]


def test_logprobs_and_n(client):
    made = client.chat.completions.create(
        model="scripted", messages=[user("hello")], logprobs=True, top_logprobs=3, n=2, extra_body=OFF
    )
    assert [choice.index for choice in made.choices] == [0, 1]
    assert len(made.choices[1].logprobs.content[0].top_logprobs) == 3


def test_completions(client):
    made = client.completions.create(model="scripted", prompt=["hello", "unicode"], max_tokens=99, logprobs=1)
    assert [choice.text for choice in made.choices] == [SAYS["hello"], SAYS["unicode"]]
    assert made.choices[0].logprobs.text_offset[1] == 1


@pytest.mark.parametrize("more", [{}, {"logprobs": 2, "stream_options": {"include_usage": True}}])
def test_a_stream_of_a_completion(served, more):
    """Strictly, but for one place: the client's schema, like OpenAI's own, has no null for the reason that is not there
    yet, and OpenAI's answers have it in every chunk but an answer's last."""
    with openai.OpenAI(base_url=served.url, api_key="none") as client:
        stream = client.completions.with_streaming_response.create(
            model="scripted", prompt=["hello", "unicode"], max_tokens=99, stream=True, **more
        )
        with stream as response:
            lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    said = ["", ""]
    for chunk in chunks:
        assert wrong_places(chunk) == {
            ("choices", place, "finish_reason")
            for place, choice in enumerate(chunk["choices"])
            if choice["finish_reason"] is None
        }
        for choice in chunk["choices"]:
            said[choice["index"]] += choice["text"]
    assert said == [SAYS["hello"], SAYS["unicode"]]
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]] == ["stop"] * 2
    assert bool(chunks[-1].get("usage")) == bool(more)


def wrong_places(chunk):
    """Where the client's model of a completion refuses a chunk."""
    try:
        openai.types.Completion.model_validate(chunk)
    except pydantic.ValidationError as error:
        return {one["loc"] for one in error.errors()}
    return set()


def test_without_v1(served):
    """A base_url that lacks it, as some clients and people write it."""
    with client_of(served, base_url=served.url.removesuffix("/v1")) as client:
        made = client.chat.completions.create(model="scripted", messages=[user("hello")], extra_body=OFF)
        assert made.choices[0].message.content == SAYS["hello"]
        assert client.completions.create(model="scripted", prompt="hello", max_tokens=99).choices[0].text
        assert client.models.retrieve("scripted").id == client.models.list().data[0].id


def test_other_names_and_slots(reciting):
    """All names are listed and answer under the first; a slot of llama-server's clients changes nothing."""
    with serving(lambda: reciting, names=["small", "gpt-4o"]) as running, client_of(running) as client:
        assert [model.id for model in client.models.list()] == ["small", "gpt-4o"]
        more = {**OFF, "id_slot": 0}
        made = client.chat.completions.create(model="gpt-4o", messages=[user("hello")], extra_body=more)
        assert (made.model, made.choices[0].message.content) == ("small", SAYS["hello"])


def test_models(client):
    assert [model.id for model in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").owned_by == "ingot"


def test_errors(client, reciting):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="scripted", messages=[user("hello")], temperature=99999)
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=[user("hello")])
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="scripted", input="x")
    with serving(lambda: reciting, key="secret") as running:
        with client_of(running) as stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        with client_of(running, api_key="secret") as friend:
            assert len(friend.models.list().data) == 1


def test_an_error_in_a_stream(fresh, reciting):
    """The status has gone out already: the client finds the error among the events."""
    with client_of(fresh) as client:
        stream = client.chat.completions.create(
            model="scripted", messages=[user("forever")], extra_body=OFF, stream=True
        )
        next(stream)
        reciting.engine.root.fails = RuntimeError("on fire")
        with pytest.raises(openai.APIError, match="the engine failed"):
            list(stream)


@pytest.fixture(scope="module")
def nugget():
    """A client of a server over the nugget."""
    if not NUGGET:
        pytest.skip("the nugget's weights are not here")
    with serving(lambda: ingot.load(), names=["nugget"]) as running, client_of(running) as made:
        yield made


def test_concurrent_answers_are_those_that_each_has_alone(nugget):
    """Together over HTTP == alone in Python: contents, logprobs, counts."""
    asked = [(f"What is {17 + i} + {25 * i}?", i % 2 == 0, 40 + i) for i in range(12)]

    def over_http(one):
        said, thinks, seed = one
        return nugget.chat.completions.create(
            model="nugget",
            messages=[user(said)],
            seed=seed,
            max_tokens=60,
            logprobs=True,
            extra_body={"chat_template_kwargs": {"enable_thinking": thinks}, "top_k": 20},
        )

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(over_http, asked))
    own = ingot.load()
    for (said, thinks, seed), made in zip(asked, together, strict=True):
        want = own.chat([user(said)], thinking=thinks, seed=seed, max_tokens=60, logprobs=True, top_k=20)
        choice = made.choices[0]
        assert (choice.message.content, choice.finish_reason) == (want.content, want.finish_reason)
        assert getattr(choice.message, "reasoning_content", None) == want.reasoning
        assert [one.logprob for one in choice.logprobs.content] == [one.logprob for one in want.logprobs]
        assert made.usage.completion_tokens == want.usage.completion_tokens


def test_the_nugget_adds(nugget):
    made = nugget.chat.completions.create(
        model="nugget", messages=[user("What is 17 + 25?")], temperature=0, extra_body=OFF
    )
    assert "42" in made.choices[0].message.content
