"""A conversation's next turn is warm, whatever its client does with reasoning: over HTTP, with the real scheduler and
cache; what the model says is given, cut into tokens as no BPE would."""

from __future__ import annotations

import json

import pytest

from tests.prompt.official import TEMPLATES
from tests.prompt.test_splice import by_bytes
from tests.scripted.model import scripted_model
from tests.serve.running import serving, until, user

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("look", "add")]
SYSTEM = {"role": "system", "content": "you am a system; what is the world? " * 3}
THINK = {"chat_template_kwargs": {"enable_thinking": True}}
THOUGHT = "the user is the world\n\nwhat is it? " * 4
MARKUP = 24  # tokens around what a user or a tool says, up to where the model goes on
SLACK = 64  # tokens that may be read again beside what is new and the last visible answer


def call(number):
    parameter = f"<parameter=at>\nplace {number}\n</parameter>"
    return f"I look.\n\n<tool_call>\n<function=look>\n{parameter}\n</function>\n</tool_call>"


def words(number):
    return f"Hello world, the answer {number} is: " + "you am a user. " * 5


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """Thinks and calls a tool when it is asked, thinks and answers when it has the result."""
    path = tmp_path_factory.mktemp("agent")
    (path / "chat_template.jinja").write_text(TEMPLATES["4B_9B"])

    def says(prompt):
        last = prompt.rsplit("<|im_start|>user\n", 1)[1]
        text = words(len(prompt) % 97) if last.startswith("<tool_response>") else call(len(prompt) % 89)
        tokenizer = model.tokenizer
        ids = (
            by_bytes(tokenizer, THOUGHT.strip() + "\n</think>")
            + tokenizer.encode("\n\n")
            + by_bytes(tokenizer, text.strip())
        )
        return [*ids, tokenizer.token_id("<|im_end|>")]

    model = scripted_model(path, says, max_position_embeddings=32768)
    return model


@pytest.fixture
def served(agent):
    with serving(lambda: agent, parallel=2, context=30_000, cache=64 << 20, debug_cache=True) as running:
        agent.engine.cache.clear()
        yield running


def count(agent, messages):
    """Tokens of messages in a prompt."""
    return sum(len(agent.tokenizer.encode(json.dumps(m))) for m in messages)


def said(agent, messages):
    """Tokens of what messages say."""
    return sum(len(agent.tokenizer.encode(m["content"])) for m in messages)


def ask(served, messages, **more):
    body = {"messages": messages, "tools": TOOLS, "debug": {"cache": True}, **THINK, **more}
    status, answer, _ = served.ask("/v1/chat/completions", body)
    assert status == 200, answer
    engine = served.server.service.engine
    until(lambda: not served.server.service.open)
    served.server.service.ahead.submit(int).result()  # what it reads ahead is with the engine now
    until(lambda: not engine.busy and engine._inbox.empty())
    return answer


def echoed(message, style):
    kept = {key: value for key, value in message.items() if key != "refusal"}
    if style == "dropped":
        kept.pop("reasoning_content", None)
    return kept


@pytest.mark.parametrize("style", ["returned", "dropped", "edited"])
def test_eight_turns_of_an_agent(served, agent, style):
    messages, computed = [SYSTEM], []
    visible = question = 0

    def turn(new):
        """One request; what was computed of its prompt is bounded."""
        nonlocal visible
        messages.extend(new)
        answer = ask(served, messages)
        usage = answer["usage"]
        again = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        if len(computed) > 2:  # the client's style is known: idle time has read the last answer as it will come back
            assert again <= said(agent, new) + MARKUP, (len(computed), answer["debug"])
        elif computed:
            assert again <= count(agent, new) + visible + SLACK, (len(computed), answer["debug"])
        computed.append(again)
        message = answer["choices"][0]["message"]
        visible = usage["completion_tokens"] - usage["completion_tokens_details"]["reasoning_tokens"]
        messages.append(echoed(message, style))
        return message

    for number in range(8):
        for attempt in range(2 if style == "edited" and number % 3 == 1 else 1):
            if attempt:  # the question is asked otherwise, and what came of it forgotten
                del messages[question:]
                visible = 0
            question = len(messages)
            first = turn([user(f"What is the world at {number}, {attempt}?")])
            assert first["tool_calls"]
            called = {
                "role": "tool",
                "tool_call_id": first["tool_calls"][0]["id"],
                "content": f"a place: {number} " * 6,
            }
            last = turn([called])
            assert "tool_calls" not in last
    whole = len(agent.encode(messages, TOOLS, True).ids)
    assert sum(computed) < 1.5 * whole  # though each of the sixteen prompts was read


def test_without_idle_time_the_reasoning_costs_a_loop_and_no_more(agent):
    """What idle time is for: the template drops the reasoning of a whole loop of calls at once."""
    costs = {}
    for idle in (True, False):
        with serving(lambda: agent, parallel=2, context=30_000, cache=64 << 20, idle_prefill=idle) as running:
            agent.engine.cache.clear()
            messages = [SYSTEM]
            for new in (user("What is the world?"), {"role": "tool", "content": "a place"}, user("you?")):
                messages.append(new)
                answer = ask(running, messages, debug=None)
                messages.append(echoed(answer["choices"][0]["message"], "returned"))
            usage = answer["usage"]
            costs[idle] = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    assert costs[True] < 32 < costs[False] < count(agent, messages[1:-1])


def test_preserved_reasoning_makes_each_turn_an_extension_of_the_last(agent):
    with serving(lambda: agent, parallel=2, context=30_000, cache=64 << 20, idle_prefill=False) as running:
        agent.engine.cache.clear()
        keeps = {"chat_template_kwargs": {"enable_thinking": True, "preserve_thinking": True}}
        messages = [SYSTEM]
        for number in range(6):
            new = {"role": "tool", "content": "a place"} if number % 2 else user(f"hello {number}")
            messages.append(new)
            answer = ask(running, messages, **keeps, debug=None)
            usage = answer["usage"]
            again = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
            assert number == 0 or again <= count(agent, [new]) + 16
            messages.append(echoed(answer["choices"][0]["message"], "returned"))
