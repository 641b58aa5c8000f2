"""How fast the engine works here, measured as it goes, and from it how long what is asked of it will take."""

from __future__ import annotations

from math import ceil

MOST_S = 600  # a client is never told to stay away longer (taste: ten minutes)
NEW = 0.2  # what the latest measurement counts (taste: the last five or so)


class Mean:
    """A mean in which the latest values count most; 0 before the first."""

    def __init__(self) -> None:
        self.value, self._some = 0.0, False

    def add(self, value: float) -> None:
        self.value += (NEW if self._some else 1.0) * (value - self.value)
        self._some = True


class Pace:
    """Seconds a token of a prompt, seconds a pass in which answers get a token each, tokens an answer has."""

    def __init__(self) -> None:
        self.prompt_s, self.pass_s, self.answer = Mean(), Mean(), Mean()
        self._reading_s = 0.0  # since a prompt was last read to its end

    def passed(self, seconds: float, reads: bool) -> None:
        """A pass took so long; whether prompts were read in it."""
        if reads:
            self._reading_s += seconds
        else:
            self.pass_s.add(seconds)

    def read(self, tokens: int) -> None:
        """A prompt of which so many tokens were computed is read."""
        if tokens:
            self.prompt_s.add(self._reading_s / tokens)
        self._reading_s = 0.0

    def answered(self, tokens: int) -> None:
        """An answer had so many tokens."""
        self.answer.add(tokens)

    def seconds(self, prompt: int, answer: int, n: int, together: int) -> float:
        """What a prompt and `n` answers of at most so many tokens take, `together` answers in each pass."""
        return prompt * self.prompt_s.value + n * min(answer, self.answer.value) * self.pass_s.value / together


def retry_after(work_s: float, requests: int, ahead: int, otherwise: int) -> int:
    """Seconds after which a refused client should come back: when, of so many requests with so much work, as many have
    ended as were refused before it, and one more. `otherwise` where nothing is measured yet."""
    if not work_s or not requests:
        return otherwise
    return min(max(1, ceil(work_s / requests * (ahead + 1))), MOST_S)
