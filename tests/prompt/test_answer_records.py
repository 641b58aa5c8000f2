"""Remembered answers after a restart: those that BPE would cut otherwise come back, for those who may know them, or are
an ordinary text; whatever is on disk, a prompt says what it said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ingot.engine.answer_records import AnswerRecords
from ingot.engine.disk import ANSWER_RECORD, PAGE_RECORD
from ingot.prompt import AnswerMemory, Tokenizer
from ingot.prompt import splice as module
from ingot.store.journal import Journal
from ingot.store.record_folder import survey
from tests.prompt.small_tokenizer import write_small_tokenizer
from tests.prompt.test_splice import NEXT, USER, by_bytes, contains, prompt

Start = Callable[..., AnswerMemory]
TEXT = "Hello world, you am a system"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer")
    write_small_tokenizer(path)
    return Tokenizer.from_directory(path)


@pytest.fixture
def start(tmp_path: Path, tokenizer: Tokenizer) -> Iterator[Start]:
    """A process's memory, with what those before it left on disk."""
    journals: list[Journal] = []

    def started(**options: int) -> AnswerMemory:
        for journal in journals[-1:]:
            journal.close()
        journals.append(Journal(tmp_path / "prefix", "one", bytes(32), size=1 << 30))
        assert journals[-1].flush(100)
        memory = AnswerMemory(tokenizer, **options)
        memory.records = AnswerRecords(journals[-1])
        return memory

    yield started
    for journal in journals:
        journal.close()


def journal_of(memory: AnswerMemory) -> Journal:
    journal = memory.records._journal  # type: ignore[union-attr]
    assert journal.flush(100)
    return journal  # type: ignore[return-value]


def tell(memory: AnswerMemory, tokenizer: Tokenizer, answer: list[int], salt: str = "", thinking: bool = False) -> None:
    memory.remember(prompt(tokenizer, [USER], thinking=thinking), answer, salt)


def echo(tokenizer: Tokenizer, text: str) -> list[int]:
    """The next prompt, which the template has made of an answer."""
    return list(prompt(tokenizer, [USER, {"role": "assistant", "content": text}, NEXT]))


@pytest.mark.parametrize("text", [TEXT, "grüße, world 🙂", "Hello\n\n```\ncode\n```"])
@pytest.mark.parametrize("thinking", [False, True])
def test_an_echo_is_cut_as_the_answer_was_after_a_restart(
    start: Start, tokenizer: Tokenizer, text: str, thinking: bool
) -> None:
    words = by_bytes(tokenizer, text)
    reasoning = tokenizer.encode("because\n</think>\n\n") if thinking else []
    tell(start(), tokenizer, reasoning + words, thinking=thinking)
    memory, given = start(), echo(tokenizer, text)
    assert len(memory) == 0
    spliced = memory.splice(given)
    assert contains(spliced, words)
    assert not contains(given, words)
    assert tokenizer.bytes_of(spliced) == tokenizer.bytes_of(given)
    assert len(memory) == 1  # asked once, then known


def test_answers_that_bpe_cuts_alike_leave_nothing_on_disk(start: Start, tokenizer: Tokenizer, tmp_path: Path) -> None:
    memory = start()
    tell(memory, tokenizer, tokenizer.encode(TEXT))
    tell(memory, tokenizer, tokenizer.encode("because\n</think>\n\n" + TEXT), thinking=True)
    journal_of(memory)
    assert survey(tmp_path / "prefix") == []
    # of odd reasoning the whole turn is kept, of the words behind it nothing
    tell(memory, tokenizer, by_bytes(tokenizer, "because\n</think>\n\n") + tokenizer.encode(TEXT), thinking=True)
    assert journal_of(memory).held[0] == 1


@pytest.mark.parametrize("text", [b"\xff\xfe world", b"hello \xe4\xbd", "e\u0301 world".encode()])
def test_what_no_echo_gives_back_is_not_written(start: Start, tokenizer: Tokenizer, text: bytes) -> None:
    """Broken characters come back as U+FFFD, decomposed ones composed: in memory such answers are never found."""
    alphabet = {tokenizer.bytes_of([i])[0]: i for i in range(256)}
    memory = start()
    tell(memory, tokenizer, [alphabet[byte] for byte in text])
    assert journal_of(memory).held[0] == 0
    given = echo(tokenizer, text.decode("utf-8", "replace"))
    assert list(memory.splice(given)) == given


def test_a_long_answer_is_written_without_a_look(
    start: Start, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKED_TOKENS", 3)
    memory = start()
    tell(memory, tokenizer, tokenizer.encode(TEXT))
    assert journal_of(memory).held[0] == 2  # with its empty block of reasoning, and without


def test_what_one_salt_was_told_no_other_finds(start: Start, tokenizer: Tokenizer) -> None:
    words, given = by_bytes(tokenizer, TEXT), echo(tokenizer, TEXT)
    tell(start(), tokenizer, words, salt="ann")
    memory = start()
    for other in ("", "bob", "ann "):
        assert list(memory.splice(given, other)) == given
    assert contains(memory.splice(given, "ann"), words)


def test_what_was_said_last_is_what_an_echo_gets(start: Start, tokenizer: Tokenizer) -> None:
    """One odd cut of a common answer is not the cut of all that come after it."""
    odd, usual = by_bytes(tokenizer, TEXT), tokenizer.encode(TEXT)
    given = echo(tokenizer, TEXT)
    for said in (odd, usual, odd, [*odd[:3], *tokenizer.encode(TEXT[3:])]):
        memory = start()
        tell(memory, tokenizer, said)
        assert contains(memory.splice(given), said)
        memory = start()
        assert contains(memory.splice(given), said)
        written = journal_of(memory).counts.written
        tell(memory, tokenizer, said)  # said again: nothing to write
        assert journal_of(memory).counts.written == written == 0


def test_what_memory_forgot_is_found_and_what_the_disk_lost_is_written_again(
    start: Start, tokenizer: Tokenizer
) -> None:
    words, given = by_bytes(tokenizer, TEXT), echo(tokenizer, TEXT)
    memory = start(most_bytes=1500)
    tell(memory, tokenizer, words)
    journal_of(memory)
    tell(memory, tokenizer, by_bytes(tokenizer, TEXT[::-1]))
    tell(memory, tokenizer, by_bytes(tokenizer, TEXT.upper()))
    assert contains(memory.splice(given), words)
    assert journal_of(memory).counts.read == 1
    journal_of(memory).clear()
    assert journal_of(memory).held[0] == 0
    assert contains(memory.splice(given), words)
    assert journal_of(memory).held[0] == 1
    assert contains(start().splice(given), words)


def test_damaged_and_hostile_records_are_ordinary_texts(start: Start, tokenizer: Tokenizer, tmp_path: Path) -> None:
    words, given = by_bytes(tokenizer, TEXT), echo(tokenizer, TEXT)
    memory = start()
    tell(memory, tokenizer, words)
    journal_of(memory)
    (key,) = (key for key, ids in memory.known.items() if tokenizer.bytes_of(ids) == TEXT.encode())
    padding = tokenizer.vocab_size + 3  # an id that the model has and nobody may say, of no bytes
    hostile = {
        "other words": by_bytes(tokenizer, TEXT[::-1]),
        "negative": [*words[:-1], -1],
        "no token": [*words, padding],
        "no token but short": [*tokenizer.encode(TEXT), padding],
        "far too long": [padding] * 100_000,
        "nothing": [],
    }
    for ids in hostile.values():
        memory = start()
        journal_of(memory).append(ANSWER_RECORD, key, [np.asarray(ids, np.int32)], replace=True)
        journal_of(memory)
        assert list(memory.splice(given)) == given
        assert len(memory) == 0
        assert len(ids) < 100 or journal_of(memory).counts.read == 0  # nor does its size take memory
    for kind, payload in ((PAGE_RECORD, np.asarray(words, np.int32)), (ANSWER_RECORD, np.zeros(7, np.uint8))):
        memory = start()
        journal_of(memory).append(kind, key, [payload], replace=True)
        journal_of(memory)
        assert list(memory.splice(given)) == given
    memory = start()
    tell(memory, tokenizer, words)
    assert contains(start().splice(given), words)
    (file,) = survey(tmp_path / "prefix")
    data = bytearray(file.path.read_bytes())
    at = data.rfind(np.asarray(words, np.int32).tobytes())
    data[at] ^= 4
    file.path.write_bytes(data)
    memory = start()
    assert list(memory.splice(given)) == given
    assert journal_of(memory).counts.damaged == 1


def test_what_is_said_while_the_disk_is_read_is_newer(tokenizer: Tokenizer) -> None:
    first, later = by_bytes(tokenizer, TEXT), tokenizer.encode(TEXT)
    memory = AnswerMemory(tokenizer)

    class Slow:
        def find(self, name: bytes, most: int) -> np.ndarray:
            tell(memory, tokenizer, later)
            return np.asarray(first, np.int32)

        def __contains__(self, name: bytes) -> bool:
            return True

        def keep(self, name: bytes, ids: np.ndarray) -> None:
            pass

    memory.records = Slow()
    given = echo(tokenizer, TEXT)
    memory.splice(given)
    assert contains(memory.splice(given), later)


def test_many_threads_remember_and_find(start: Start, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """As the engine's thread and those that read requests do: everyone finds what was said, and nothing is counted
    wrong."""
    texts = [f"Hello {number}, you am a system" for number in range(24)]
    together = [Journal(tmp_path / "prefix", "one", bytes(32), size=1 << 30) for _ in range(2)]
    assert all(journal.flush(100) for journal in together)  # neither finds what the other is about to write
    for journal, half in zip(together, (texts[::2], texts[1::2]), strict=True):
        memory = AnswerMemory(tokenizer)
        memory.records = AnswerRecords(journal)
        for text in half:
            tell(memory, tokenizer, by_bytes(tokenizer, text))
    for journal in together:
        journal.close()
    assert len(survey(tmp_path / "prefix")) == 2  # of which one is open at a time
    memory, wrong = start(most_bytes=2000), list[str]()  # which forgets nearly all, so that the disk is asked

    def find() -> None:
        for text in texts * 6:
            if not contains(memory.splice(echo(tokenizer, text)), by_bytes(tokenizer, text)):
                wrong.append(text)

    def say() -> None:
        for text in texts * 6:
            tell(memory, tokenizer, by_bytes(tokenizer, text))

    threads = [threading.Thread(target=work) for work in (find, find, say)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    counts = journal_of(memory).counts
    assert (counts.damaged, counts.errors, counts.written) == (0, 0, 0)
