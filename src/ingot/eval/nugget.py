"""What the bundled model can do, measured: the numbers of its card, by `ingot eval nugget`.

Every sum is of a pair of operands that training never saw; every saying is one that training never saw. Greedy, so
that the numbers are the same on every run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ingot.eval import small_talk
from ingot.eval.arithmetic import Sum, ask, draw_sum, is_right
from ingot.eval.score import Score

SYSTEM = "You are a friendly tutor for children."  # not among the system texts of training
LATE_TURNS = (2, 5, 10)  # the turn of a conversation in which a sum is asked
MOST_TOKENS = 128
KEPT_MISTAKES = 5
Message = dict[str, str]


class Chats(Protocol):
    """What is asked of the model: `LanguageModel.chat`."""

    def chat(self, messages: Any, tools: Any = None, thinking: bool | None = None, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Question:
    """A conversation that ends with the user's turn, the kinds its answer counts for, and what is right."""

    kinds: tuple[str, ...]
    messages: list[Message]
    thinking: bool
    right: Callable[[str], bool]


def evaluate(
    model: Chats, questions: int = 1000, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[Score]:
    """Ask everything; a Score for each kind in order. `questions` sums are asked in each mode, the rest in proportion.

    `progress` is called with (asked, of all). Raises ValueError when questions is below 10.
    """
    if questions < 10:
        raise ValueError(f"questions={questions}: at least 10 are needed for a share to mean anything.")
    asked = list(all_questions(questions, seed))
    right = dict.fromkeys(_sum_kinds(), 0)  # in the table's order
    total = right.copy()
    mistakes: dict[str, list[tuple[str, str]]] = {}
    for i, question in enumerate(asked):
        answer = answer_of(model, question)
        good = question.right(answer)
        for kind in question.kinds:
            right[kind] = right.get(kind, 0) + good
            total[kind] = total.get(kind, 0) + 1
            if not good and len(mistakes.setdefault(kind, [])) < KEPT_MISTAKES:
                mistakes[kind].append((question.messages[-1]["content"], answer))
        if progress:
            progress(i + 1, len(asked))
    return [Score(kind, right[kind], total[kind], tuple(mistakes.get(kind, ()))) for kind in total if total[kind]]


def answer_of(model: Chats, question: Question) -> str:
    """The model's greedy answer; one that thinks without end has none."""
    reply = model.chat(question.messages, thinking=question.thinking, temperature=0, max_tokens=MOST_TOKENS)
    return (reply.content or "").strip()


def all_questions(questions: int, seed: int) -> Iterator[Question]:
    """Every question of the card, a function of its arguments alone."""
    for thinking in (False, True):
        rng = random.Random(f"{seed} sums {thinking}")
        for _ in range(questions):
            yield _sum_question(rng, thinking)
    few = max(questions // 5, 10)
    rng = random.Random(f"{seed} situations")
    for _ in range(few):
        yield _situation(rng, "wording never trained", unseen=True)
    for _ in range(few):
        yield _situation(rng, "system turn", before=[{"role": "system", "content": SYSTEM}])
    for turn in LATE_TURNS:
        for _ in range(few // 2):
            yield _situation(rng, f"sum in turn {turn}", before=_earlier_turns(rng, turn - 1))
    rng = random.Random(f"{seed} talk")
    for kind in small_talk.KINDS:
        for text in _held_out_sayings(kind, rng, few // 2):
            yield _talk(kind, text, "held-out texts")
    for kind, texts in small_talk.UNSEEN.items():
        for text in texts:
            yield _talk(kind, text, "written by hand")


def _sum_kinds() -> list[str]:
    parts = [f"{name}, {n} digit{'s' * (n > 1)}" for name in ("addition", "subtraction") for n in (1, 2, 3)]
    return [f"{mode}: {part}" for mode in ("direct", "thinking") for part in ("all sums", *parts)]


def _sum_question(rng: random.Random, thinking: bool) -> Question:
    sum_ = draw_sum(rng, "test")
    mode = "thinking" if thinking else "direct"
    name = "addition" if sum_.op == "+" else "subtraction"
    kinds = (f"{mode}: all sums", f"{mode}: {name}, {sum_.digits} digit{'s' if sum_.digits > 1 else ''}")
    return Question(kinds, [_user(ask(sum_, rng))], thinking, _checker(sum_))


def _situation(rng: random.Random, kind: str, before: list[Message] | None = None, unseen: bool = False) -> Question:
    sum_ = draw_sum(rng, "test")
    messages = [*(before or []), _user(ask(sum_, rng, unseen=unseen))]
    return Question((f"direct: {kind}",), messages, False, _checker(sum_))


def _earlier_turns(rng: random.Random, turns: int) -> list[Message]:
    messages: list[Message] = []
    for _ in range(turns):
        sum_ = draw_sum(rng, "test")
        messages += [_user(ask(sum_, rng)), {"role": "assistant", "content": f"{sum_.question}={sum_.answer}"}]
    return messages


def _held_out_sayings(kind: str, rng: random.Random, count: int) -> list[str]:
    """`count` texts that differ by more than case and punctuation, or fewer: some kinds have few."""
    texts: dict[str, str] = {}
    for _ in range(20 * count):
        if len(texts) == count:
            break
        text = small_talk.draw(kind, rng, from_held_out=True)
        texts.setdefault("".join(filter(str.isalnum, text.lower())), text)
    return list(texts.values())


def _talk(kind: str, text: str, source: str) -> Question:
    return Question((f"{kind}: {source}",), [_user(text)], False, lambda answer: small_talk.RIGHT[kind] in answer)


def _checker(sum_: Sum) -> Callable[[str], bool]:
    return lambda answer: is_right(answer, sum_)


def _user(text: str) -> Message:
    return {"role": "user", "content": text.strip()}
