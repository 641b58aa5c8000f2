"""Pictures from files of every kind, sizes, placeholders and positions, and every refusal."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ingot.prompt.media import Preprocessor, expand, image_size, open_image, video_size
from ingot.spec import official, parse_config

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
CONFIG = parse_config(official("0.8b"))


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_sizes_of_the_reference() -> None:
    factor, low, high = 32, 65536, 16777216
    for (height, width), want in {
        (1080, 1920): (1088, 1920),
        (480, 640): (480, 640),
        (64, 64): (256, 256),
        (336, 336): (320, 320),
        (8000, 6000): (4704, 3520),
    }.items():
        assert image_size(height, width, factor, low, high) == want
    assert video_size(4, 20, 16, 32, 2, 4096, 25165824) == (32, 32)  # sides under a block grow first
    with pytest.raises(ValueError, match="the image is 10 x 2001 pixels; one side may be 200 times the other at most"):
        image_size(2001, 10, factor, low, high)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF"])
def test_every_way_in_gives_the_same_pixels(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS if kind != "GIF" else PIXELS // 64 * 64)
    if kind == "GIF":
        image = image.quantize(64)
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    want = np.asarray(image.convert("RGB"))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    url = "data:image/x;base64," + base64.b64encode(data).decode()
    for source in (data, bytearray(data), path, str(path), url, Image.open(io.BytesIO(data)), want):
        assert np.array_equal(open_image(source), want)


def test_modes_become_rgb() -> None:
    grey = PIXELS[:, :, 0]
    alpha = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 7, np.uint8)])
    as_rgb = np.repeat(grey[:, :, None], 3, axis=2)
    assert np.array_equal(open_image(encoded(Image.fromarray(grey), "PNG")), as_rgb)
    assert np.array_equal(open_image(encoded(Image.fromarray(alpha), "PNG")), PIXELS)  # dropped, not blended
    assert np.array_equal(open_image(alpha), PIXELS)
    assert np.array_equal(open_image(grey), as_rgb)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(open_image(encoded(deep, "PNG")), as_rgb)
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    assert np.array_equal(open_image(encoded(cmyk, "JPEG", quality=100)).shape, PIXELS.shape)
    black = Image.fromarray(grey > 127)
    assert set(np.unique(open_image(encoded(black, "PNG")))) == {0, 255}


def test_the_cameras_orientation_is_applied() -> None:
    image, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[0x0112] = 6  # turned to the right
    turned = open_image(encoded(image, "PNG", exif=exif))
    assert np.array_equal(turned, np.rot90(PIXELS, -1))


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(data)[0, 0, 0] < 20


def refusals() -> dict[str, tuple[Any, str]]:
    png = encoded(Image.fromarray(PIXELS), "PNG")
    return {
        "nothing": (b"", "is not an image that Ingot reads .*\nhint: it is empty"),
        "a text": (Path(__file__), "test_media.py is not an image that Ingot reads"),
        "pdf": (b"%PDF-1.7 ...", "hint: it is a PDF"),
        "heic": (b"\0\0\0\x18ftypheic....", "hint: it is a HEIC or AVIF"),
        "svg": (b"<svg xmlns='x'/>", "hint: it is an SVG"),
        "cut": (png[: len(png) // 2], "is damaged or cut short"),
        "head only": (png[:20], "is not an image|is damaged or cut short"),
        "folder": (Path(__file__).parent, "is not a file"),
        "address": (
            "https://example.org/a.png",
            r"is an address; only files and data: URLs are read\nhint: allow_urls=True",
        ),
        "data url without base64": ("data:image/png,abc", "is not of the form data:image/png;base64"),
        "bad base64": ("data:image/png;base64,!!!!", "is not valid base64"),
        "floats": (PIXELS / 255, r"an image is float64 \(40, 60, 3\); uint8"),
        "two channels": (PIXELS[:, :, :2], r"an image is uint8 \(40, 60, 2\)"),
        "none": (None, "an image is a NoneType; a path"),
        "number": (3, "an image is a int; a path"),
        "empty array": (PIXELS[:0], "is 60 x 0 pixels; it has none"),
        "bomb": (bomb(), "has more pixels than 134,217,728, which are the most"),
    }


def bomb() -> bytes:
    """A PNG that claims 3.6 gigapixels."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", sorted(refusals()))
def test_refusals(name: str) -> None:
    source, sentence = refusals()[name]
    with pytest.raises(ValueError, match=sentence):
        open_image(source)


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: there is no such file"):
        open_image("nowhere.png")


def one(height: int = 64, width: int = 96) -> Any:
    small = Preprocessor(image_pixels=(1024, 1 << 20), video_pixels=(1024, 1 << 20))
    return small.image(np.zeros((height, width, 3), np.uint8))


def clip(frames: int = 3) -> Any:
    small = Preprocessor(image_pixels=(1024, 1 << 20), video_pixels=(1024, 1 << 20))
    shots = [np.full((32, 64, 3), 10 * i, np.uint8) for i in range(frames)]
    return small.video(shots, [i / 2 for i in range(frames)])


def words(text: str) -> list[int]:
    return [1000 + ord(character) for character in text]


def test_pads_and_positions_of_an_image() -> None:
    """By hand: 64 x 96 pixels are 2 x 3 tokens."""
    start, end, pad = CONFIG.vision_start_token_id, CONFIG.vision_end_token_id, CONFIG.image_token_id
    got = expand(np.array([5, start, pad, end, 6]), [one()], CONFIG, words)
    assert got.ids.tolist() == [5, start, *[pad] * 6, end, 6]
    assert got.positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert got.rows[0].tolist() == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("wrapper", [True, False])
def test_pads_of_a_video(wrapper: bool) -> None:
    """Three frames are two temporal patches, the last frame twice; 32 x 64 pixels are 1 x 2 tokens."""
    start, end, pad = CONFIG.vision_start_token_id, CONFIG.vision_end_token_id, CONFIG.video_token_id
    video = clip()
    assert video.grid == (2, 2, 4)
    assert video.seconds == (0.25, 1.0)
    assert np.array_equal(video.frames[2], video.frames[3])
    got = expand(np.array([5, start, pad, end, 6]), [video], CONFIG, words, video_wrapper=wrapper)
    inner = [*words("<0.2 seconds>"), start, pad, pad, end, *words("<1.0 seconds>"), start, pad, pad, end]
    assert got.ids.tolist() == ([5, start, *inner, end, 6] if wrapper else [5, *inner, 6])
    assert (got.ids[got.rows[0]] == pad).all()
    assert len(got.rows[0]) == 4


def test_placeholders_must_match() -> None:
    start, end, pad = CONFIG.vision_start_token_id, CONFIG.vision_end_token_id, CONFIG.image_token_id
    for ids, pictures in (([start, pad, end], []), ([1, 2], [one()]), ([pad, pad], [one()]), ([pad], [clip()])):
        with pytest.raises(ValueError, match="placeholders for"):
            expand(np.array(ids), pictures, CONFIG, words)


def test_temporal_patches_hold_their_two_frames() -> None:
    video = clip(4)
    first = video.patches(0).reshape(8, 3, 2, 16, 16)
    assert np.allclose(first[:, :, 0], -1)
    assert np.allclose(first[:, :, 1], 10 / 127.5 - 1)


def test_max_pixels() -> None:
    pictures = Preprocessor()
    seen = pictures.image(np.zeros((2000, 3000, 3), np.uint8), max_pixels=300_000)
    assert seen.frames.shape[1] * seen.frames.shape[2] <= 300_000
    assert pictures.image(np.zeros((64, 64, 3), np.uint8), max_pixels=1024).tokens == 1
    for wrong in (0, 1023, True, 1.5):
        with pytest.raises(ValueError, match="max_pixels is"):
            pictures.image(np.zeros((64, 64, 3), np.uint8), max_pixels=wrong)
