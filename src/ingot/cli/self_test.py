"""The sum that `ingot doctor` asks of the bundled nugget, on every backend there is."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from typing import Any

from ingot.cli.machine import Finding

QUESTION, ANSWER = "What is 17 + 25?", "42"


def backends() -> Iterator[Finding]:
    """Does each backend load the nugget and answer 42?"""
    native = importlib.util.find_spec("ingot._native") is not None
    torch = importlib.util.find_spec("torch") is not None
    there = [*(["native"] if native else []), "reference", *(["torch"] if torch else [])]
    for backend in there:
        yield _ask(backend)


def _ask(backend: str) -> Finding:
    import ingot

    start = time.perf_counter()
    try:
        model = ingot.load(backend=backend)
        loaded = time.perf_counter()
        answer: Any = model.chat([{"role": "user", "content": QUESTION}], thinking=False, temperature=0, max_tokens=16)
    except Exception as error:  # whatever is broken, the next backend is still to be tried
        text = f"{backend}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        return Finding("nugget", "failure", text, _hint(error), {"backend": backend})
    seconds = {"load_s": round(loaded - start, 3), "answer_s": round(time.perf_counter() - loaded, 3)}
    took = f"loaded in {seconds['load_s']:.2f} s, answered in {seconds['answer_s']:.2f} s"
    said = answer.content.strip().rstrip(".").rpartition("=")[2].strip()  # it may repeat the sum: 17+25=42
    data = {"backend": backend, "answer": answer.content, **seconds}
    if said != ANSWER:
        text = f"{backend}: {QUESTION} {answer.content!r}, but {ANSWER} is right ({took})"
        return Finding(
            "nugget", "failure", text, "the installation is damaged, or this processor computes wrongly", data
        )
    return Finding("nugget", "ok", f"{backend}: 17 + 25 = {said}, {took}", data=data)


def _hint(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[1].removeprefix("hint: ") if len(lines) > 1 and lines[1].startswith("hint:") else ""
