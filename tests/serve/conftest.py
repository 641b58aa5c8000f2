from __future__ import annotations

import pytest

from tests.scripted.model import scripted_model
from tests.serve.running import serving

PARAMETERS = "<parameter=a>\n17\n</parameter>\n<parameter=b>\n25\n</parameter>\n"
CALL = f"<tool_call>\n<function=add>\n{PARAMETERS}</function>\n</tool_call>"
SAYS = {
    "hello": "Hello world, what is the world?",
    "unicode": "grüße 你好 🙂 — done",
    "call": f"I add.\n\n{CALL}",
    "two calls": f"{CALL}\n{CALL}",
    "think": "17 and 25\nmake 42\n</think>\n\nIt is 42.",
    "nothing": "",
    "forever": "a" * 1500,
}


def recite(prompt: str) -> str:
    """What the model says to the last of the user's messages, or to a bare prompt."""
    said = prompt.rsplit("<|im_start|>user\n", 1)[-1].split("<|im_end|>")[0]
    return SAYS.get(said, "yes")


@pytest.fixture(scope="session")
def reciting(tmp_path_factory):
    return scripted_model(tmp_path_factory.mktemp("scripted"), recite)


@pytest.fixture(scope="module")
def served(reciting):
    """A server over the reciting model, for tests that leave it as it was."""
    with serving(lambda: reciting, parallel=4) as running:
        yield running


@pytest.fixture
def fresh(reciting):
    """One of a test's own: four seats and two that wait."""
    with serving(lambda: reciting, parallel=4, queue=2) as running:
        reciting.engine.root.passes.clear()
        yield running
        reciting.engine.root.gate = None
