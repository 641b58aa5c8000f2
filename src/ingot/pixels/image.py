"""Bytes of a picture file to RGB, by Pillow; run in the child process where there is one."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ingot.pixels.limits import ASPECT, IMAGE_FORMATS, IMAGE_PIXELS


class RefusedError(ValueError):
    """A file that is not decoded, in one sentence."""


def decoded(data: bytes, name: str) -> Any:
    """The PIL image in mode RGB of a JPEG, PNG, WebP, GIF (its first frame) or BMP file; ValueError in one sentence."""
    from PIL import Image, UnidentifiedImageError

    with sentences(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # we have limits of our own
        try:
            image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        except UnidentifiedImageError:
            known = ", ".join(IMAGE_FORMATS)
            raise RefusedError(f"{name} is not an image that Ingot reads ({known}){_hint(data)}") from None
        except Image.DecompressionBombError:
            raise RefusedError(f"{name} has more pixels than {IMAGE_PIXELS:,}, which are the most") from None
    return as_rgb(image, name)


def as_rgb(image: Any, name: str) -> Any:
    """A PIL image turned as the camera was, in mode RGB: 16 bits a channel become 8, transparency is dropped."""
    from PIL import ImageOps

    width, height = image.size
    check_size(width, height, name)
    check_aspect(width, height, name)
    with sentences(name):
        if image.mode.startswith("I"):  # 16 bits a channel; PIL would clip at 255
            image = _eight_bits(image)
        return ImageOps.exif_transpose(image).convert("RGB")


def _eight_bits(image: Any) -> Any:
    import numpy as np
    from PIL import Image

    grey = np.clip(np.asarray(image).astype(np.int32), 0, 65535)
    return Image.fromarray((grey // 257).astype(np.uint8))


@contextmanager
def sentences(name: str) -> Iterator[None]:
    """Whatever a decoder makes of hostile bytes becomes one sentence; what we refuse ourselves stays as it is."""
    try:
        yield
    except (RefusedError, MemoryError):
        raise
    except Exception as error:
        words = " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
        reason = "".join(c if c.isprintable() else "\ufffd" for c in words) or type(error).__name__
        raise RefusedError(f"{name} is damaged or cut short: {reason}") from None


def check_size(width: int, height: int, name: str, most: int = IMAGE_PIXELS) -> None:
    """ValueError for a picture without pixels, or with more than `most`."""
    if width < 1 or height < 1:
        raise RefusedError(f"{name} is {width} x {height} pixels; it has none")
    if width * height > most:
        raise RefusedError(f"{name} is {width} x {height} pixels; {most:,} are the most")


def check_aspect(width: int, height: int, name: str) -> None:
    """ValueError for a strip: decoders take minutes for some, and the model sees none."""
    if max(width, height) > ASPECT * min(width, height):
        raise RefusedError(f"{name} is {width} x {height} pixels; one side may be {ASPECT} times the other at most")


def _hint(data: bytes) -> str:
    kinds = {
        b"%PDF": "a PDF; save the page as PNG or JPEG, with `pdftoppm -png` for example",
        b"II*\0": "a TIFF; save it as PNG or JPEG",
        b"MM\0*": "a TIFF; save it as PNG or JPEG",
        b"<svg": "an SVG; save it as PNG",
        b"<!DO": "a web page; get the picture itself",
        b"<htm": "a web page; get the picture itself",
        b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` gets the picture",
    }
    for start, what in kinds.items():
        if data.startswith(start):
            return f"\nhint: it is {what}"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "\nhint: it is a HEIC or AVIF picture; save it as JPEG or PNG"
    if data[4:8] in (b"ftyp", b"moov") or data.startswith(b"\x1aE\xdf\xa3"):
        return "\nhint: it is a video, which is shown as one (--video, or a part of type 'video')"
    return "\nhint: it is empty" if not data else ""
