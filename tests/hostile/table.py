"""The whole table: the rows of this folder, and those of the tests of each reader. docs/errors.md shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ingot.prompt import ChatTemplate, Tokenizer, normalise_messages, normalise_tools, render
from ingot.prompt.media import open_image
from ingot.store import SafetensorsFile, open_checkpoint
from tests.hostile import files, inputs, programs
from tests.hostile.row import Row
from tests.prompt import test_media, test_messages, test_sandbox, test_tokenizer
from tests.prompt.small_tokenizer import write_small_tokenizer
from tests.store import test_bad_checkpoints, test_bad_files, test_bad_gguf
from tests.store.store_files import make_checkpoint


def _read_after(spoil: Callable[[Path], Any], write: Callable[[Path], Any], read: Callable[[Path], Any]) -> Any:
    def attempt(place: Path) -> Any:
        write(place)
        spoil(place)
        return read(place)

    return attempt


def _content(name: str, content: bytes | str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def attempt(place: Path) -> Any:
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read(place)

    return attempt


def _weights(place: Path) -> Any:
    return SafetensorsFile(place / "model.safetensors")


def _render(place: Path) -> Any:
    return render(programs.HI, template=ChatTemplate.from_directory(place))


def _whole(place: Path) -> Any:
    return write_small_tokenizer(place)


def _parts(place: Path) -> Any:
    return write_small_tokenizer(place, parts=True)


@cache
def _model_and_tower() -> Any:
    with TemporaryDirectory() as place:
        return test_bad_gguf.model_and_tower(Path(place))


def _gguf(model: Any, tower: Any = ({}, {})) -> Callable[[Path], Any]:
    """A GGUF model with changes of its metadata and tensors, and a tower with its own beside it."""

    def attempt(place: Path) -> Any:
        whole = _model_and_tower()
        (place / "m.gguf").write_bytes(test_bad_gguf.changed(whole[0], *model))
        if any(tower):
            (place / "mmproj.gguf").write_bytes(test_bad_gguf.changed(whole[1], *tower))
        return test_bad_gguf.read_whole(place / "m.gguf")

    return attempt


def _collected() -> Iterator[Row]:
    """The tables of the readers' own tests."""
    for bad in test_bad_files.BAD:
        yield Row("Weight files", bad.name, _content("model.safetensors", bad.content, _weights))
    for name, content, _ in test_bad_gguf.RAW:
        yield Row("GGUF files", name, _content("m.gguf", content, lambda place: open_checkpoint(place / "m.gguf")))
    for name, *model, _ in test_bad_gguf.MODEL:
        yield Row("GGUF files", f"a model: {name}", _gguf(model))
    for name, *tower, _ in test_bad_gguf.TOWER:
        yield Row("GGUF files", f"a tower: {name}", _gguf(({}, {}), tower))
    for name, spoil, _ in test_bad_checkpoints.BAD:
        yield Row("Checkpoint directories", name, _read_after(spoil, make_checkpoint, open_checkpoint))
    for table, write, what in ((test_tokenizer.BAD_WHOLE, _whole, ""), (test_tokenizer.BAD_PARTS, _parts, "parts: ")):
        for name, (spoil, _) in table.items():
            yield Row("Tokenizers", what + name, _read_after(spoil, write, Tokenizer.from_directory))
    for name, (source, _) in test_sandbox.HOSTILE.items():
        yield Row("Chat templates", name, programs.templated(source))
    for name, (content, _) in test_sandbox.BAD_FILES.items():
        yield Row("Chat templates", f"chat_template.jinja: {name}", _content("chat_template.jinja", content, _render))
    for name, (content, _) in test_sandbox.BAD_CONFIGS.items():
        yield Row(
            "Chat templates", f"tokenizer_config.json: {name}", _content("tokenizer_config.json", content, _render)
        )
    for name, (source, _) in test_media.refusals().items():
        if name not in ("a text", "folder"):  # they name the test's own file
            yield Row("Pictures", name, lambda place, source=source: open_image(source))
    for name, (given, _) in test_messages.BAD_MESSAGES.items():
        yield Row("Messages and tools", name, lambda place, given=given: normalise_messages(given))
    for name, (given, _) in test_messages.BAD_TOOLS.items():
        if name != "not a dict":  # shows an object of Python
            yield Row("Messages and tools", f"tools: {name}", lambda place, given=given: normalise_tools(given))


@cache
def table() -> dict[tuple[str, str], Row]:
    """(section, name) -> row, section by section."""
    found = [*files.rows(), *_collected(), *programs.rows(), *inputs.rows()]
    sections = list(dict.fromkeys(row.section for row in found))
    found.sort(key=lambda row: sections.index(row.section))
    rows = {(row.section, row.name): row for row in found}
    assert len(rows) == len(found), "two rows have one name"
    return rows
