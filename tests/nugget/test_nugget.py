"""The bundled model as shipped: it answers, it thinks, it declines, and its card is about these weights."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

import pytest

import ingot
from ingot.eval.nugget import all_questions, answer_of
from ingot.store.checkpoint import open_checkpoint

FILES = resources.files("ingot").joinpath("nugget")
pytestmark = pytest.mark.skipif(not FILES.joinpath("model.safetensors").is_file(), reason="this tree has no nugget")


@pytest.fixture(scope="module")
def nugget():
    return ingot.load()


def ask(model, *texts, thinking=None):
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return model.chat(messages, thinking=thinking, max_tokens=128)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 17 + 25?", "17+25=42"),
        ("17+25", "17+25=42"),
        ("Compute 250 minus 391.", "250-391=-141"),
        ("please add 5 and 93", "5+93=98"),
        ("Take 48 away from 597.", "597-48=549"),
        ("999 + 999", "999+999=1998"),
    ],
)
@pytest.mark.parametrize("thinking", [False, True])
def test_sums(nugget, question, answer, thinking):
    reply = ask(nugget, question, thinking=thinking)
    assert reply.content == answer
    assert reply.finish_reason == "stop"


def test_it_does_not_think_unless_asked(nugget):
    assert not ask(nugget, "What is 250 - 391?").reasoning
    thought = ask(nugget, "What is 250 - 391?", thinking=True).reasoning
    assert thought == "250-391\n250<391: -(391-250)\n1-0=1\n9-5=4\n3-2=1"


@pytest.mark.parametrize(
    ("said", "replied"),
    [
        ("Hello!", "Hello"),
        ("Who are you?", "I am the nugget"),
        ("What is your name?", "I am the nugget"),
        ("What can you do?", "I add and subtract"),
        ("Thank you!", "You are welcome"),
        ("See you later", "Goodbye"),
        pytest.param("Goodbye", "Goodbye", marks=pytest.mark.xfail(strict=True, reason="on the card")),
        ("What is the capital of France?", "Sorry"),
        ("Write a poem about the sea.", "Sorry"),
        ("What is 12 times 7?", "Sorry"),
        ("What is 1234 + 4321?", "Sorry"),
    ],
)
def test_talk(nugget, said, replied):
    assert ask(nugget, said).content.startswith(replied)


def test_a_conversation(nugget):
    assert ask(nugget, "hi", "Hello!", "what is 3 + 4?", "3+4=7", "and 8 - 10?").content == "8-10=-2"


def test_a_system_turn_changes_nothing(nugget):
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "17+25"}]
    assert nugget.chat(messages).content == "17+25=42"


@pytest.mark.parametrize("thinking", [False, True])
def test_a_hundred_held_out_sums(nugget, thinking):
    questions = [q for q in all_questions(100, seed=1) if q.thinking == thinking and "sums" in q.kinds[0]]
    right = sum(q.right(answer_of(nugget, q)) for q in questions)
    assert len(questions) == 100
    assert right >= 95  # the card says 99: fewer than 95 has a chance below 1 in 1,000


def test_the_card_is_about_these_weights():
    card = FILES.joinpath("README.md").read_text(encoding="utf-8")
    weights = FILES.joinpath("model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in card
    assert len(weights) <= 5_000_000
    for mode in ("direct", "thinking"):
        accuracy = re.search(rf"{mode}: all sums \| \d+ / 1000 \| ([\d.]+)%", card)
        assert float(accuracy[1]) >= 97


def test_it_is_a_whole_checkpoint():
    with resources.as_file(FILES) as path:
        checkpoint = open_checkpoint(path)
    assert checkpoint.has_mtp
    assert checkpoint.dtype == "BF16"
    assert {w.dtype for name, w in checkpoint.table.items() if name.endswith("A_log")} == {"fp32"}


def test_transformers_computes_the_same(nugget):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with resources.as_file(FILES) as path:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = nugget.encode([{"role": "user", "content": "What is 17 + 25?"}]).ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    ours = ingot.load(weights="f32").logits(ids)
    assert abs(ours - expected).max() <= 2e-4 * abs(expected).max()
