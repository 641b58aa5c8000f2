"""The child that decodes: it may do little, and however it ends there is one sentence."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ingot
from ingot.pixels import child, limits
from ingot.pixels.worker import LENGTHS
from ingot.prompt.media import open_image

pytestmark = pytest.mark.skipif(not child.contained(), reason="no child process here")
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def png(pixels: np.ndarray = PIXELS) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def process_of_the_child() -> int:
    child.warm()
    assert child._kept is not None
    return child._kept[1]._process.pid


def test_one_child_serves_many_pictures_and_refusals() -> None:
    first = process_of_the_child()
    for _ in range(3):
        assert np.array_equal(open_image(png()), PIXELS)
        with pytest.raises(ValueError, match="is not an image"):
            open_image(b"nothing")
    assert process_of_the_child() == first


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_the_child_may_do() -> None:
    open_image(png())
    pid = process_of_the_child()
    text = Path(f"/proc/{pid}/limits").read_text()
    found = {line[:26].strip(): line[26:].split()[0] for line in text.splitlines()}
    assert found["Max address space"] == str(limits.MEMORY)
    assert found["Max file size"] == "0"
    assert found["Max core file size"] == "0"
    assert found["Max open files"] == str(limits.OPEN_FILES)
    assert int(found["Max cpu time"]) <= limits.IMAGE_SECONDS * child.THREADS + 5
    names = {entry.split("=")[0] for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if entry}
    assert names <= {"LC_ALL", "OPENBLAS_NUM_THREADS", *child.KEPT}
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def meanwhile(what: Any) -> threading.Thread:
    thread = threading.Thread(target=lambda: (time.sleep(0.2), what()))
    thread.start()
    return thread


@pytest.mark.parametrize("end", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_a_sentence_and_the_next_picture_is_decoded(end: signal.Signals) -> None:
    open_image(png())
    pid = process_of_the_child()
    os.kill(pid, signal.SIGSTOP)
    thread = meanwhile(lambda: (os.kill(pid, end), os.kill(pid, signal.SIGCONT)))
    with pytest.raises(ValueError, match=rf"^the image cannot be decoded: its decoder crashed \({end.name}\)$"):
        open_image(png())
    thread.join()
    assert np.array_equal(open_image(png()), PIXELS)
    assert process_of_the_child() != pid


def test_a_hang_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    open_image(png())
    monkeypatch.setattr(limits, "IMAGE_SECONDS", 1)
    pid = process_of_the_child()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ValueError, match=r"^the image takes more than 1 seconds to decode, which are the most$"):
        open_image(png())
    assert np.array_equal(open_image(png()), PIXELS)


def test_too_little_memory_is_a_sentence() -> None:
    code = "from ingot.pixels import limits, worker; limits.MEMORY = 300 << 20; worker.main()"
    env = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as run:
        data = png(np.zeros((9000, 9001, 3), np.uint8))
        assert run.stdin is not None
        assert run.stdout is not None
        job = {"do": "image", "name": "big.png", "seconds": 60}
        text = json.dumps(job).encode()
        run.stdin.write(LENGTHS.pack(len(text), len(data)) + text + data)
        run.stdin.close()
        assert b'"error": "big.png takes more than' in run.stdout.read()


def test_a_child_that_says_nonsense_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "not json": LENGTHS.pack(3, 0) + b"{{{",
        "a list": LENGTHS.pack(2, 0) + b"[]",
        "a huge head": LENGTHS.pack(1 << 31, 0),
        "a huge body": LENGTHS.pack(2, 1 << 60) + b"{}",
        "nothing": b"",
    }
    for said in answers.values():
        reader, writer = os.pipe()
        made = child.Child()
        made._ready = True
        os.write(writer, said)
        os.close(writer)
        made._out = reader
        with pytest.raises(ValueError, match=r"^a\.png cannot be decoded: its decoder"):
            list(made.ask({"do": "image", "name": "a.png"}, png(), 5))
        os.close(reader)
    for head, body in (({"height": 3, "width": 5}, b"x"), ({"height": 1 << 20, "width": 1 << 20}, b"x"), ({}, b"")):
        monkeypatch.setattr(child, "_answers", lambda *_, head=head, body=body, **__: iter([(head, body)]))
        with pytest.raises(ValueError, match=r"^a\.png cannot be decoded: its decoder"):
            child.decode_image(b"", "a.png")


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "json.py").write_text("raise SystemExit('a module of the user')")
    script = tmp_path / "folder" / "script.py"
    script.parent.mkdir()
    script.write_text(
        f"from ingot.prompt.media import open_image\nprint(open_image({str(tmp_path / 'a.png')!r}).shape)\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, str(script)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (run.stdout, run.returncode) == ("(40, 60, 3)\n", 0), run.stderr


def test_without_a_child_the_same_pixels_and_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "contained", lambda: False)
    monkeypatch.setattr(child, "Child", None)
    assert np.array_equal(open_image(png()), PIXELS)
    with pytest.raises(ValueError, match="is damaged or cut short"):
        open_image(png()[:200])


def test_the_child_imports_no_numpy_and_little_of_ingot() -> None:
    code = (
        "import sys, ingot.pixels.worker as w; w._import_decoders(); "
        "print([m for m in sys.modules if 'ingot' in m or m == 'numpy'])"
    )
    env = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout == "['ingot', 'ingot.pixels', 'ingot.pixels.limits', 'ingot.pixels.worker']\n"
