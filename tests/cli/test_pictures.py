"""Pictures on the command line and in the chat, over a small random model that sees."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ingot
from ingot.cli import main
from ingot.cli.conversation import Conversation
from ingot.cli.interactive import Session, _loop
from ingot.cli.pictures import SUFFIXES, begins_with_file, dragged, file_names
from ingot.cli.terminal import Terminal
from ingot.loading import nugget_path
from tests.api.small_model import MERGE, PATCH, write_seeing_model

TOKEN_PIXELS = (PATCH * MERGE) ** 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a vision tower that sees 16 to 400 patches."""
    return write_seeing_model(tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return ingot.load(checkpoint, backend="reference")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """32 x 64 pixels: 4 x 8 tokens."""
    return save(tmp_path / "photo.png", 32, 64)


def save(path: Path, height: int, width: int) -> Path:
    noise = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def ask(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`ingot chat CHECKPOINT -p "What is the world" WORDS`: exit code, stdout, stderr."""

    def run(*words: str, chosen: Path = checkpoint) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
        options = ["--backend", "reference", "--no-think", "--max-tokens", "4", "--seed", "3"]
        code = main(["chat", str(chosen), "-p", "What is the world", *options, *words])
        return code, *capsys.readouterr()

    return run


def usage(outcome: tuple[int, str, str]) -> int:
    code, out, err = outcome
    assert code == 0, err
    tokens: int = json.loads(out)["usage"]["prompt_tokens"]
    return tokens


def test_a_picture_is_answered_and_costs_its_tokens(ask: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.png", 40, 40)
    text = usage(ask("--json"))
    one = usage(ask("--json", "--image", str(photo)))
    assert one == text + 4 * 8 + 2  # vision start and end
    assert usage(ask("--json", "--image", str(photo), "--image", str(other))) == one + 5 * 5 + 2
    assert usage(ask("--json", "--image", str(photo), "--max-pixels", str(8 * TOKEN_PIXELS))) == text + 8 + 2
    code, out, _ = ask("--image", str(photo))
    assert code == 0
    assert out != "\n"


def test_a_file_is_decoded_once(ask: Callable[..., Any], photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.prompt.media import image

    opened, decode = [], image.decode_image
    monkeypatch.setattr(image, "decode_image", lambda *given: opened.append(0) or decode(*given))
    assert ask("--image", str(photo))[0] == 0
    assert len(opened) == 1


def test_a_model_without_a_tower_says_so(ask: Callable[..., Any], photo: Path) -> None:
    if not (nugget_path() / "model.safetensors").is_file():
        pytest.skip("the nugget's weights are not here")
    code, out, err = ask("--image", str(photo), chosen=nugget_path())
    assert (code, out) == (2, "")
    assert err.startswith("ingot: this model reads text only; it was made without a vision tower\nhint: official mod")


BAD = [
    (["--image", "photo.pgn"], "ingot: --image photo.pgn: there is no such file\nhint: photo.png is there\n"),
    (["--image", "no/such/dir.png"], "ingot: --image no/such/dir.png: there is no such file\n"),
    (["--image", "a" * 300], f"ingot: --image {'a' * 300}: there is no such file\n"),
    (["--image", "folder"], "ingot: --image folder is a directory; a picture file is needed\n"),
    (["--image", "cut.png"], "ingot: cut.png is damaged or cut short: "),
    (["--image", "cut.png", "--image", "photo.pgn"], "ingot: --image photo.pgn: there is no such file"),
    (["--image", "text.png"], "ingot: text.png is not an image that Ingot reads (JPEG, PNG, WEBP, GIF, BMP)"),
    (["--image", "empty.png"], "(JPEG, PNG, WEBP, GIF, BMP)\nhint: it is empty\n"),
    (["--image", "strip.png"], "strip.png is 201 x 1 pixels; one side may be 200 times the other at most\n"),
    (["--image", "photo.png", "--max-pixels", "0"], "ingot: --max-pixels is 0; a positive number of pixels is needed"),
    (["--image", "photo.png", "--max-pixels", "63"], "max_pixels is 63; it must be at least 64, one token\n"),
    (["--image", "photo.png", "--max-pixels", "few"], "argument --max-pixels: invalid int value: 'few'"),
    (["--max-pixels", "4096"], "ingot: --max-pixels is given without a picture\nhint: --image FILE shows one\n"),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=[" ".join(words)[:40] for words, _ in BAD])
def test_a_bad_picture_is_one_sentence_and_exit_code_2(
    words: list[str], told: str, ask: Callable[..., Any], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = photo.parent
    monkeypatch.chdir(here)
    (here / "folder").mkdir()
    (here / "cut.png").write_bytes(photo.read_bytes()[:-2000])
    (here / "text.png").write_text("a text")
    (here / "empty.png").touch()
    save(here / "strip.png", 1, 201)
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert told in err
    assert err.startswith("ingot: ")
    assert len(err.splitlines()) <= 2


NAMES = ("a.png", "my pic.PNG", "it's.jpg", "b.webp")


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with files of these names, where we are; only their names matter here."""
    for name in NAMES:
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("line", "text", "found"),
    [
        ("what is in a.png", "what is in", ["a.png"]),
        ("what's in a.png", "what's in", ["a.png"]),
        ("what's in a.png, and isn't it odd?", "what's in , and isn't it odd?", ["a.png"]),
        ("'D/my pic.PNG' what is this", "what is this", ["D/my pic.PNG"]),
        ('"D/my pic.PNG"', "", ["D/my pic.PNG"]),
        (r"what's D/my\ pic.PNG", "what's", ["D/my pic.PNG"]),
        (r"what's 'D/my pic.PNG' and D/it\'s.jpg", "what's and", ["D/my pic.PNG", "D/it's.jpg"]),
        (r"'D/it'\''s.jpg' and file://D/my%20pic.PNG", "and", ["D/it's.jpg", "D/my pic.PNG"]),
        ("compare D/a.png  D/b.webp", "compare", ["D/a.png", "D/b.webp"]),
        ("a.png a.png twice", "twice", ["a.png", "a.png"]),
        ("line one\n  line two D/a.png", "line one\n  line two", ["D/a.png"]),
        ("no file: missing.png, 'my other pic.png', xa.png", "no file: missing.png, 'my other pic.png', xa.png", []),
        ("  spaces   stay  ", "  spaces   stay  ", []),
        ("\0.png", "\0.png", []),
        ("x" * 300 + ".png", "x" * 300 + ".png", []),
    ],
)
def test_dragged(line: str, text: str, found: list[str], names: str) -> None:
    assert dragged(line.replace("D/", names + "/")) == (text, [name.replace("D/", names + "/") for name in found])


@given(st.text(st.sampled_from("'\"\\ .a\npngx/") | st.characters(), max_size=40))
def test_a_text_without_names_of_files_is_unchanged(text: str) -> None:
    assert dragged(text) == (text, [])
    assert dragged(text + " no/such/" + SUFFIXES[0]) == (text + " no/such/" + SUFFIXES[0], [])


def test_what_a_command_or_a_line_begins_with(names: str) -> None:
    assert begins_with_file(f"{names}/a.png what is it")
    assert not begins_with_file(f"/image {names}/a.png")
    assert file_names("my pic.PNG") == ["my pic.PNG"]
    assert file_names(f"'{names}/my pic.PNG'") == [f"{names}/my pic.PNG"]
    assert file_names(rf"{names}/it\'s.jpg {names}/a.png") == [f"{names}/it's.jpg", f"{names}/a.png"]
    assert file_names("a.png or not") == ["a.png or not"]  # refused as it was typed


class Lines:
    """A person who types these lines and leaves."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        self.lines = [*lines]
        self.drafts: list[str] = []

    def read(self, prompt: str, default: str = "") -> str:
        self.drafts.append(default)
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)


def talk(model: Any, *lines: str, max_pixels: int | None = None) -> tuple[Session, str]:
    """The session after these lines, and what was shown."""
    stream, sampling = io.StringIO(), {"max_tokens": 4, "seed": 3}
    conversation = Conversation(thinking=False, sampling=sampling, max_pixels=max_pixels)
    session = Session(model, "small", conversation, Terminal(stream), Lines(lines))
    _loop(session)
    return session, stream.getvalue()


def pictures_in(session: Session, turn: int = 0) -> list[str]:
    content = session.conversation.messages[turn]["content"]
    return [Path(part["image"]).name for part in content if "image" in part] if isinstance(content, list) else []


def turns_of_the_user(session: Session) -> list[dict[str, Any]]:
    return [message for message in session.conversation.messages if message["role"] == "user"]


def test_a_picture_of_a_command_goes_with_the_next_turn_alone(model: Any, photo: Path) -> None:
    session, shown = talk(model, f"/image {photo}", "What is", "hello")
    assert f"{photo}: 64 x 32 pixels, 32 tokens" in shown
    assert pictures_in(session) == ["photo.png"]
    assert session.conversation.messages[0]["content"][-1] == {"type": "text", "text": "What is"}
    assert [message["content"] for message in turns_of_the_user(session)][1:] == ["hello"]


def test_a_dropped_file_begins_with_a_slash_and_is_no_command(model: Any, photo: Path) -> None:
    session, shown = talk(model, f"{photo} What is")
    assert "there is no /" not in shown
    assert pictures_in(session) == ["photo.png"]
    session, shown = talk(model, str(photo), "hello")
    assert "what about it?" in shown
    assert pictures_in(session) == ["photo.png"]
    assert len(turns_of_the_user(session)) == 1


def test_max_pixels_hold_in_the_chat(model: Any, photo: Path) -> None:
    session, shown = talk(model, f"{photo} What is", max_pixels=8 * TOKEN_PIXELS)
    assert "32 pixels, 8 tokens" in shown
    assert session.last.usage.prompt_tokens < 32


def test_mistakes_are_told_in_a_sentence(model: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    (photo.parent / "bad.heic").write_bytes(b"\0\0\0\x18ftypheic")
    session, shown = talk(
        model, "/image", "/image photo.pgn", "/image .", "/image bad.heic", "/image photo.png", "/image", "/image none"
    )
    assert shown.split("\n\n") == [
        "\nno picture waits for the next message",
        "photo.pgn: there is no such file\nhint: photo.png is there",
        ". is a directory; a picture file is needed",
        "bad.heic is not an image that Ingot reads (JPEG, PNG, WEBP, GIF, BMP)\n"
        "hint: it is a HEIC or AVIF picture; save it as JPEG or PNG",
        "photo.png: 64 x 32 pixels, 32 tokens",
        "[photo.png] with the next message",
        "no picture waits for the next message",
        "",
    ]
    assert session.images == []


def test_a_line_with_a_refused_picture_is_given_back_whole(model: Any, photo: Path) -> None:
    bad = photo.with_name("bad.png")
    bad.write_bytes(b"nothing")
    line = f"compare {photo}  with {bad}"
    session, shown = talk(model, line)
    assert f"error: {bad} is not an image" in shown
    assert session.reader.drafts == ["", line]
    assert (session.images, session.conversation.messages) == ([], [])


def test_a_refused_turn_is_given_back_with_its_picture(model: Any, photo: Path) -> None:
    session, shown = talk(model, f"/image {photo}", "a " * 300)
    assert "this model's context holds 300" in shown
    assert "/image none leaves its pictures out" in shown
    assert session.reader.drafts[-1].split() == ["a"] * 300
    assert [Path(part["image"]) for part in session.images] == [photo]
    assert session.conversation.messages == []


def test_a_picture_that_went_away_costs_one_answer(model: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = talk(model, f"/image {photo}")
    photo.unlink()
    session.reader = Lines(("What is", "/image none", "hello"))
    session.terminal = Terminal(io.StringIO())
    _loop(session)
    assert f"error: {photo}: there is no such file\n" in session.terminal.stream.getvalue()
    assert session.reader.drafts[1] == "What is"
    assert session.conversation.messages[0]["content"] == "hello"


def test_a_model_without_a_tower_gives_the_line_back(photo: Path) -> None:
    from tests.cli.scripted import Reciter

    session, shown = talk(Reciter(), f"{photo} What is", f"/image {photo}")
    assert shown.count("this model reads text only") == 2
    assert session.reader.drafts[1] == f"{photo} What is"


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix")
def test_a_file_dropped_on_a_real_terminal(photo: Path, tmp_path: Path) -> None:
    from tests.cli.pty_session import PROMPT, Chat

    with Chat("--no-history", columns=200, HOME=str(tmp_path)) as chat:
        chat.wait(PROMPT)
        assert "error: this model reads text only" in chat.say(f"'{photo}' What is")
        chat.wait("' What is")  # it stands in the prompt again
        chat.type("\x03")
        assert "\nuser: messages\n" in chat.say("messages")
        assert "no picture waits for the next message" in chat.say("/image")
        assert "user: messages\n" in chat.say("/regen")


def test_saved_loaded_answered_again_and_edited_with_its_picture(model: Any, photo: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    talk(model, f"{photo} What is", f"/save {file}")
    session, shown = talk(model, f"/load {file}", "/regen")
    assert "› [photo.png] What is\n" in shown
    assert pictures_in(session) == ["photo.png"]
    assert session.last.usage.prompt_tokens > 32
    session, shown = talk(model, f"/load {file}", "/edit", "What is the world")
    assert session.reader.drafts[2] == "What is"
    assert "[photo.png] with the next message" in shown
    assert pictures_in(session) == ["photo.png"]
    session, _ = talk(model, f"/load {file}", "/edit", "/new", "hello")
    assert pictures_in(session) == []


def test_a_saved_picture_is_found_from_elsewhere(model: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    talk(model, "/image photo.png", "What is", "/save talk.json")
    (photo.parent / "below").mkdir()
    monkeypatch.chdir(photo.parent / "below")
    session, shown = talk(model, "/load ../talk.json", "/regen")
    assert "error" not in shown
    assert session.last.usage.prompt_tokens > 32


def test_pictures_of_other_programs_are_kept_in_their_order(model: Any, photo: Path, tmp_path: Path) -> None:
    import base64

    url = "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()
    parts = [{"type": "text", "text": "What"}, {"type": "image_url", "image_url": {"url": url}}, {"text": "is"}]
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([{"role": "user", "content": parts}]))
    session, shown = talk(model, f"/load {file}", "/regen")
    assert "› What [data:image/png;base64] is\n" in shown
    assert session.conversation.messages[0]["content"] == parts
    system = tmp_path / "system.json"
    system.write_text(json.dumps([{"role": "system", "content": parts}, {"role": "user", "content": "hello"}]))
    assert "messages[0] is a system message with pictures; it may hold text alone" in talk(model, f"/load {system}")[1]


def test_what_is_no_video(model: Any, photo: Path) -> None:
    frame = np.asarray(Image.open(photo))
    for source, told in {
        5: "a video is a int; a path, data: URL, bytes or a list of frames is needed",
        (frame.tobytes()[:9], frame.tobytes()[:9]): "is not an image that Ingot reads",
    }.items():
        with pytest.raises(ValueError, match=told):
            model.encode([{"role": "user", "content": [{"type": "video", "video": source}]}])
    mixed = [{"type": "video", "video": [frame, frame[:16]], "fps": 2}]
    with pytest.raises(ValueError, match="the video has frames of 64 x 16 and 64 x 32 pixels; give one size"):
        model.encode([{"role": "user", "content": mixed}])
