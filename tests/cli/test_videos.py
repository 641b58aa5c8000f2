"""Videos, addresses and drawings on the command line and in the chat, over the small model of `test_pictures`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ingot.answer import ChatCompletion, Stream
from ingot.cli.pictures import dragged
from ingot.language_model import LanguageModel
from ingot.prompt import Delta
from tests.cli.test_pictures import ask, checkpoint, model, photo, talk, usage  # noqa: F401
from tests.pixels.test_video_files import film


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds of 64 x 32 pixels: 4 frames seen, 2 temporal patches of 4 x 8 tokens."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(film(size=(64, 32)))
    return path


def test_a_video_is_answered_and_costs_its_tokens(ask: Callable[..., Any], photo: Path, clip: Path) -> None:  # noqa: F811
    text = usage(ask("--json"))
    one = usage(ask("--json", "--video", str(clip)))
    assert one > text + 2 * 4 * 8
    fewer = usage(ask("--json", "--video", str(clip), "--max-pixels", str(4 * 8 * 64)))
    assert fewer < one
    assert usage(ask("--json", "--image", str(photo), "--video", str(clip))) == one + 4 * 8 + 2


BAD = [
    (["--video", "clip.mp"], "ingot: --video clip.mp: there is no such file\nhint: clip.mp4 is there\n"),
    (["--video", "cut.mp4"], "ingot: cut.mp4 is damaged or cut short: "),
    (["--video", "photo.png"], "ingot: photo.png is not a video that Ingot reads (MP4, MOV, MKV, WebM, AVI)\n"),
    (["--image", "clip.mp4"], "\nhint: it is a video, which is shown as one (--video, or a part of type 'video')\n"),
    (
        ["--image", "http://a.org/b.png"],
        "ingot: --image http://a.org/b.png is an address\nhint: --allow-urls fetches it",
    ),
    (["--image", "http://127.0.0.1:1/a", "--allow-urls"], "which is not a public one\nhint: allow_urls='private'"),
    (["--allow-urls"], "ingot: --allow-urls is given without a picture"),
    (["--draw", "out.png"], "ingot: --draw needs one picture\nhint: --image FILE shows one\n"),
    (["--image", "photo.png", "--draw", "out.txt"], "is no name of a picture; .png, .jpg and .webp are written\n"),
    (["--image", "photo.png", "--draw", "photo.png"], "ingot: --draw photo.png exists; give another name\n"),
    (["--image", "photo.png", "--draw", "no/out.png"], "ingot: --draw no/out.png: there is no directory "),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=[" ".join(words)[:40] for words, _ in BAD])
def test_a_mistake_is_one_sentence_and_exit_code_2(
    words: list[str],
    told: str,
    ask: Callable[..., Any],  # noqa: F811
    photo: Path,  # noqa: F811
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photo.parent)
    (photo.parent / "cut.mp4").write_bytes(clip.read_bytes()[:-300])
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) <= 2


def test_boxes_are_drawn(ask: Callable[..., Any], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def says(content: str) -> Callable[..., Any]:
        answer = ChatCompletion(content=content, finish_reason="stop")
        return lambda *_, **__: Stream(iter([Delta(content=content)]), answer)

    monkeypatch.setattr(LanguageModel, "chat", says('{"bbox_2d": [250, 250, 750, 750], "label": ""}'))
    out = tmp_path / "out.png"
    code, _, err = ask("--image", str(photo), "--draw", str(out))
    assert (code, err) == (0, f"ingot: 1 drawn on {out}\n")
    before, after = np.asarray(Image.open(photo)), np.asarray(Image.open(out))
    assert after.shape == before.shape == (32, 64, 3)
    assert after[8, 30].tolist() == [0xE6, 0x19, 0x4B]
    assert np.array_equal(after[:8], before[:8])
    monkeypatch.setattr(LanguageModel, "chat", says("nothing there"))
    code, _, err = ask("--image", str(photo), "--draw", str(tmp_path / "other.png"))
    assert code == 0
    assert "the answer holds no boxes and no points" in err
    assert not (tmp_path / "other.png").exists()


def test_a_video_in_the_chat(model: Any, clip: Path, tmp_path: Path) -> None:  # noqa: F811
    session, shown = talk(
        model, f"/video {clip}", "What is", f"{clip} hello", "/video", f"/save {tmp_path / 'talk.json'}"
    )
    assert f"{clip}: 64 x 32 pixels, 2.0 seconds, of which 4 frames are seen, 64 tokens" in shown
    first, second = (session.conversation.messages[i]["content"] for i in (0, 2))
    assert first == [{"type": "video", "video": str(clip)}, {"type": "text", "text": "What is"}]
    assert second[1] == {"type": "text", "text": "hello"}
    assert "/video takes a file name, as in /video clip.mp4" in shown
    assert json.loads((tmp_path / "talk.json").read_text())[0]["content"] == first
    assert "› [clip.mp4] hello" in talk(model, f"/load {tmp_path / 'talk.json'}")[1]


def test_a_refused_video_gives_the_line_back(model: Any, clip: Path) -> None:  # noqa: F811
    clip.write_bytes(b"nothing")
    session, shown = talk(model, f"what is in {clip}")
    assert f"error: {clip} is not a video that Ingot reads" in shown
    assert session.reader.drafts == ["", f"what is in {clip}"]
    assert dragged(f"what is in {clip}") == ("what is in", [str(clip)])
