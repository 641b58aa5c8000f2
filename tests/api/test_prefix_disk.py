"""What the prefix cache keeps on disk is found by the next load of the same model in the same formats, by no other."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot
from ingot.engine import Mark, Request, SamplingParams
from ingot.language_model import LanguageModel
from ingot.options import Options
from tests.api.small_model import write_seeing_model, write_small_model
from tests.prompt.official import TEMPLATES

pytest.importorskip("ingot.ops.native", exc_type=ImportError)

IDS = np.random.default_rng(3).integers(0, 90, 300)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_small_model(tmp_path / "model")


def said(loaded: LanguageModel, length: int = 300) -> tuple[list[Any], int]:
    """An answer, and how many tokens of its prompt came from disk."""
    scheduler = loaded.engine.scheduler(1)
    marks = (Mark(length - 2, "turn"),)
    scheduler.add(Request(IDS[:length], sampling=SamplingParams(seed=1), max_tokens=5, logprobs=1, marks=marks))
    tokens = []
    while scheduler.unfinished:
        tokens += scheduler.step()
    scheduler.close()
    assert tokens[0].reuse is not None
    return [(token.id, token.logprob) for token in tokens], tokens[0].reuse.disk


def once(model: Path, cache: Path, length: int = 300, **options: Any) -> tuple[list[Any], int]:
    """The same by a model that is loaded for it."""
    loaded = ingot.load(model, cache=cache, **{"prefix_disk": True, "threads": 1, **options})
    try:
        return said(loaded, length)
    finally:
        loaded.engine.cache.disk.journal.close()


def test_the_next_start_goes_on_from_it(model: Path, tmp_path: Path) -> None:
    cold, nothing = once(model, tmp_path / "cache")
    warm, read = once(model, tmp_path / "cache")
    assert (nothing, read) == (0, 298)
    assert cold == warm
    again, read = once(model, tmp_path / "cache", threads=2)
    assert (again, read) == (cold, 298)


@pytest.mark.parametrize("other", [{"weights": "q4"}, {"kv": "q8"}, {"yarn": 2.0}])
def test_other_formats_find_nothing(model: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    once(model, tmp_path / "cache", weights="q8", kv="bf16")
    assert once(model, tmp_path / "cache", **{"weights": "q8", "kv": "bf16", **other})[1] == 0
    assert once(model, tmp_path / "cache", weights="q8", kv="bf16")[1] == 298
    assert len(list((tmp_path / "cache" / "prefix").iterdir())) == 2


def test_what_is_written_when_the_model_is_given_up(model: Path, tmp_path: Path) -> None:
    loaded = ingot.load(model, cache=tmp_path / "cache", prefix_disk=True)
    said(loaded)
    del loaded
    gc.collect()
    assert once(model, tmp_path / "cache")[1] == 298


def test_nothing_is_written_unless_asked(model: Path, tmp_path: Path) -> None:
    said(ingot.load(model, cache=tmp_path / "cache"))
    assert not (tmp_path / "cache" / "prefix").exists()


def test_pictures_are_told_apart(tmp_path: Path) -> None:
    """After a restart, too: their tokens have the same ids."""
    seeing = write_seeing_model(tmp_path / "seeing")
    pictures = [np.random.default_rng(n).integers(0, 256, (48, 64, 3), np.uint8) for n in range(2)]
    first, again, other = (seen(seeing, tmp_path / "cache", pictures[n]) for n in (0, 0, 1))
    assert again[0] == first[0] != other[0]
    assert (first[1], other[1]) == (0, 0)
    assert again[1] > 150


def seen(model: Path, cache: Path, picture: np.ndarray) -> tuple[list[Any], int]:
    """What is said to a picture and 200 letters, and how many tokens came from disk."""
    loaded = ingot.load(model, cache=cache, prefix_disk=True)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "x " * 60}]
    job = loaded.chat_job(
        [{"role": "user", "content": content}], None, None, Options(max_tokens=3, sampling={"seed": 1})
    )
    marks = (Mark(len(job.request.ids) - 4, "turn"),)
    scheduler = loaded.engine.scheduler(1)
    scheduler.add(replace(job.request, marks=marks, logprobs=1))
    tokens = []
    while scheduler.unfinished:
        tokens += scheduler.step()
    scheduler.close()
    loaded.engine.cache.disk.journal.close()
    return [(token.id, token.logprob) for token in tokens], tokens[0].reuse.disk  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prefix_disk": 0}, "prefix_disk is 0; it must be True, False or a number of bytes"),
        ({"prefix_disk": -5}, "prefix_disk is -5"),
        ({"prefix_disk": True, "prefix_cache": False}, "prefix_disk is set and prefix_cache is not"),
        ({"prefix_disk": True, "prefix_cache": 10**6, "backend": "torch"}, "which backend='torch' has not"),
    ],
)
def test_what_is_refused(model: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    if options.get("backend") == "torch":
        pytest.importorskip("torch")
    with pytest.raises(ValueError, match=sentence.replace("'", ".")):
        ingot.load(model, cache=tmp_path / "cache", **options)


PROCESS = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from tests.api.test_prefix_disk import conversation
print(repr(conversation(Path(sys.argv[1]), Path(sys.argv[2]), *map(eval, sys.argv[3:]))))
"""


def conversation(model: Path, cache: Path, said: list[str], turns: int) -> tuple[list[str], list[int], list[int]]:
    """Turns of a conversation in which so much was said: what the answers are, how many tokens of each prompt were
    cached, and how many of those came from disk. Letters that BPE would merge are said one by one."""
    loaded = ingot.load(model, cache=cache, prefix_disk=True, prefix_cache=64 << 20)
    letters = dict.fromkeys(loaded.tokenizer.encode("w o r l d h e"), 60.0)  # type: ignore[union-attr]
    system = {"role": "system", "content": "you am a system; what is the world? " * 6}
    answers, cached, disk = list(said), [], []
    for turn in range(len(said), len(said) + turns):
        messages = [system]
        for number in range(turn + 1):
            messages.append({"role": "user", "content": f"hello {number}"})
            messages += [{"role": "assistant", "content": text} for text in answers[number : number + 1]]
        made = loaded.chat(messages, thinking=False, max_tokens=20, seed=turn, logit_bias=letters)
        answers.append(made.content)
        cached.append(made.usage.cached_tokens)
        disk.append(made.reuse.disk)
    loaded.engine.cache.disk.finish(20)
    loaded.engine.cache.disk.journal.close()
    return answers, cached, disk


def test_echoed_answers_are_warm_after_a_restart(tmp_path: Path) -> None:
    """Of a real process: this one finds what that one has said, token for token."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "chat_template.jinja").write_text(TEMPLATES["4B_9B"])
    model = write_small_model(tmp_path / "model", max_position_embeddings=4096)
    root = Path(__file__).resolve().parents[2]
    text = PROCESS.format(paths=[str(root), str(Path(ingot.__file__).resolve().parents[1])])

    command = [sys.executable, "-c", text, str(model), str(tmp_path / "cache"), "[]", "2"]
    said, first, _ = eval(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    said, (cached,), (disk,) = conversation(model, tmp_path / "cache", said, 1)
    answers, whole, _ = conversation(model, tmp_path / "other", [], 3)
    assert said == answers
    assert [*first, cached] == whole  # as without a restart
    assert cached == disk > whole[1] > whole[0]
