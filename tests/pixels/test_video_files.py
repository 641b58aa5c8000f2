"""Video files of every kind, and every refusal."""

from __future__ import annotations

import io
import shutil
import struct
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.pixels import limits, video
from ingot.prompt.media import Preprocessor, glance, open_video

av = pytest.importorskip("av")
SEES = Preprocessor(video_pixels=(1024, 1 << 20))


def film(
    frames: int = 20,
    kind: str = "mp4",
    codec: str = "mpeg4",
    rate: Any = 10,
    size: tuple[int, int] = (96, 64),
    when: Callable[[int], int] | None = None,
    sound: bool = False,
    **options: str,
) -> bytes:
    """Frame i is i * 10 grey; `when` gives its time in hundredths of a second."""
    place = Path(tempfile.mkdtemp()) / "film"  # a file: faststart reads it again
    with av.open(str(place), "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=rate) if frames else None
        audio = container.add_stream("pcm_s16le", rate=8000) if sound else None
        if stream:
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            if when:
                stream.codec_context.time_base = Fraction(1, 100)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), i * 10 % 256, np.uint8), format="rgb24")
            if when:
                frame.pts, frame.time_base = when(i), Fraction(1, 100)
            container.mux(stream.encode(frame))
        if stream:
            container.mux(stream.encode())
        if audio:
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            noise.sample_rate = 8000
            container.mux(audio.encode(noise))
            container.mux(audio.encode())
    data = place.read_bytes()
    shutil.rmtree(place.parent)
    return data


def greys(picture: Any) -> list[int]:
    return [round(float(frame.mean()) / 10) for frame in picture.frames]


KINDS = [
    ("mp4", "mpeg4"),
    ("mov", "mpeg4"),
    ("matroska", "mpeg4"),
    ("avi", "mpeg4"),
    ("webm", "libvpx"),
    ("webm", "libvpx-vp9"),
]


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_every_container(kind: str, codec: str, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV does not encode {codec}")
    file = tmp_path / "clip with no suffix"
    file.write_bytes(film(kind=kind, codec=codec))
    seen = open_video(file, SEES)
    assert greys(seen) == [0, 6, 13, 19]  # two seconds: four frames at least
    assert seen.seconds == (0.3, 1.6)
    assert glance(file, SEES).tokens == seen.tokens
    assert greys(open_video(bytearray(file.read_bytes()), SEES, fps=4)) == [0, 3, 5, 8, 11, 14, 16, 19]


def test_the_telephone_was_held_upright() -> None:
    data = bytearray(film())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # a quarter to the right
    seen = open_video(bytes(data), SEES)
    assert seen.frames.shape[1:3] == (96, 64)
    assert (glance(bytes(data), SEES).width, glance(bytes(data), SEES).height) == (64, 96)


def test_turned_to_the_right() -> None:
    class Frame:
        rotation = -90

        def to_ndarray(self, format: str) -> np.ndarray:
            return np.arange(6, dtype=np.uint8).reshape(1, 2, 3)

    assert np.array_equal(video._upright(Frame()), np.rot90(Frame().to_ndarray("rgb24"), -1))


def test_a_variable_frame_rate_keeps_its_times() -> None:
    """Ten frames in the first second, then one a second: seen by their number, told by their time."""
    seen = open_video(film(when=lambda i: i * 10 if i < 10 else (i - 9) * 100, kind="matroska"), SEES, max_frames=4)
    assert greys(seen) == [0, 6, 13, 19]
    assert seen.seconds == pytest.approx((0.3, (4 + 10) / 2), abs=0.02)


def test_one_frame_is_no_video() -> None:
    with pytest.raises(ValueError, match="the video has 1 frames; 2 are needed"):
        open_video(film(1), SEES)


def refusals() -> dict[str, tuple[Any, str]]:
    fast = film(60, movflags="faststart")
    web = film(90, "matroska")
    return {
        "nothing": (b"", r"the video is not a video that Ingot reads \(MP4, .*\nhint: it is empty"),
        "a text": (Path(__file__), "test_video_files.py is not a video that Ingot reads"),
        "a playlist": (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "is not a video that Ingot reads"),
        "a concat script": (b"ffconcat version 1.0\nfile /etc/passwd\n", "is not a video that Ingot reads"),
        "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "is not a video that Ingot reads"),
        "head only": (fast[:20], "^the video is damaged or cut short: "),
        "its end is not there": (film()[:-300], "^the video is damaged or cut short: "),
        "half": (fast[: len(fast) // 2], "^the video is damaged or cut short: .* of 60 frames are there|cut short"),
        "half of a webm": (web[: len(web) // 2], r"^the video is damaged or cut short: .* of 9\.0 seconds"),
        "zeros": (
            fast[: fast.index(b"mdat") + 4] + bytes(len(fast)),
            "^the video is damaged or cut short|0 x 0 pixels",
        ),
        "sound alone": (film(0, "matroska", sound=True), "^the video has no video stream; it holds sound alone$"),
        "an old codec": (film(codec="msmpeg4v2", kind="avi"), "the video is coded as msmpeg4v2; Ingot decodes H.264"),
        "folder": (Path(__file__).parent, "is not a file"),
        "address": ("https://example.org/a.mp4", "is an address; only files and data: URLs are read"),
        "data url": ("data:video/mp4,abc", "is not of the form data:video/mp4;base64"),
        "number": (5, "a video is a int; a path, data: URL, bytes or a list of frames is needed"),
    }


@pytest.mark.parametrize("name", sorted(refusals()))
def test_refusals(name: str) -> None:
    source, sentence = refusals()[name]
    for look in (open_video, glance):
        with pytest.raises(ValueError, match=sentence):
            look(source, SEES)


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO(film())
    monkeypatch.setattr(video, "FRAMES", 19)
    with pytest.raises(ValueError, match="a has more frames than 19, which are the most"):
        video.read_index(file, "a")
    monkeypatch.setattr(video, "FRAME_PIXELS", 96 * 64 - 1)
    with pytest.raises(ValueError, match="a is 96 x 64 pixels; 6,143 are the most"):
        video.read_index(file, "a")
    for wrong in (1, True, 2.5):
        with pytest.raises(ValueError, match="max_frames is"):
            open_video(film(), SEES, max_frames=wrong)


def test_fewer_frames_than_the_file_lists_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read = video.read_index
    monkeypatch.setattr(video, "read_index", lambda *given: video.Index(25, read(*given).fps, ()))
    heads = [head for head, _ in video.frames(io.BytesIO(film()), "a", 2.0, 4, 768)]
    assert [head["frames"] for head in heads if "frames" in head] == [5, 4]
    assert heads[-1] == {"frame": 3}


def test_without_pyav_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"a\.mp4 is a video file, for which PyAV is needed\nhint: pip install 'ingot-lm\[video\]'"
    ):
        open_video(tmp_path / "a.mp4", SEES)


def test_codecs_are_named_as_pyav_names_them() -> None:
    assert {"h264", "hevc", "vp9", "mpeg4"} <= set(limits.VIDEO_CODECS) & set(av.codecs_available)
