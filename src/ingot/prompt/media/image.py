"""Image files to RGB pixels. Bytes from strangers: formats, bytes and pixels are bounded before anything is decoded."""

from __future__ import annotations

import base64
import binascii
import io
import os
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ingot.spec.text_file import one_line

Array = np.ndarray

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_BYTES = 100 << 20  # of a file (taste: a camera's largest JPEG takes 50)
MAX_PIXELS = 128 << 20  # decoded (taste: eight times what the model can see; 384 MB as RGB)


def open_image(source: Any) -> Array:
    """uint8 [H, W, 3] of a path, a `data:` URL, bytes, a PIL image or an array [H, W], [H, W, 3] or [H, W, 4].

    The camera's orientation is applied; of an animation the first frame is taken; transparency is dropped, not blended;
    16 bits a channel become 8. Raises ValueError in one sentence, FileNotFoundError for a path that is not there.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decoded(bytes(source), "the image")
    if isinstance(source, str) and source.startswith("data:"):
        return _decoded(_from_data_url(source), "the image of the data: URL")
    if isinstance(source, str) and "://" in source[:10]:
        raise ValueError(f"the image {_shown(source)} is an address; only files and data: URLs are read")
    if isinstance(source, str | os.PathLike):
        return _decoded(_from_file(Path(source)), _name(Path(source)))
    if hasattr(source, "convert") and hasattr(source, "size"):  # a PIL image, without importing PIL to ask
        return _pixels(source, "the image")
    raise ValueError(f"an image is a {type(source).__name__}; a path, data: URL, bytes, PIL image or array is needed")


def _from_array(array: Array) -> Array:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"an image is {array.dtype} {array.shape}; uint8 [H, W], [H, W, 3] or [H, W, 4] is needed")
    _check_size(array.shape[1], array.shape[0], "the image")
    rgb = np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array[:, :, :3]
    return np.ascontiguousarray(rgb)


def _from_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError(f"the data: URL {_shown(url)} is not of the form data:image/png;base64,...")
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise ValueError(f"the data: URL has {len(body):,} characters; {MAX_BYTES >> 20} MB of image are the most")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the data: URL {_shown(url)} is not valid base64: {error}") from None


def _from_file(path: Path) -> bytes:
    if "\0" in str(path):
        raise ValueError(f"the image {_shown(str(path))} cannot be a path; give the content of a file as bytes")
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for, a device has no end
            raise ValueError(f"{path} is not a file")
        if about.st_size > MAX_BYTES:
            raise ValueError(f"{path} has {about.st_size:,} bytes; {MAX_BYTES >> 20} MB are the most")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{_name(path)}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"the image {_name(path)} cannot be read: {error.strerror}") from None


def _name(path: Path) -> str:
    """A path as an error shows it: people give the content of a file in its place."""
    text = str(path)
    return text if len(text) <= 255 and text.isprintable() else _shown(text)


def _decoded(data: bytes, name: str) -> Array:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # we have limits of our own
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ValueError(f"{name} is not an image that Ingot reads ({known}){_hint(data)}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name} has more pixels than {MAX_PIXELS:,}, which are the most") from None
    except Exception as error:  # whatever a decoder makes of hostile bytes
        raise _damaged(name, error) from None
    return _pixels(image, name)


def _pixels(image: Any, name: str) -> Array:
    from PIL import ImageOps

    width, height = image.size
    _check_size(width, height, name)
    try:
        if image.mode.startswith("I"):  # 16 bits a channel; PIL would clip at 255
            grey = np.asarray(image).astype(np.int64)
            return _from_array((np.clip(grey, 0, 65535) // 257).astype(np.uint8))
        return np.ascontiguousarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
    except Exception as error:
        raise _damaged(name, error) from None


def _damaged(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name} is damaged or cut short: {one_line(str(error)) or type(error).__name__}")


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"{name} is {width} x {height} pixels; it has none")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name} is {width} x {height} pixels; {MAX_PIXELS:,} are the most")


def _hint(data: bytes) -> str:
    kinds = {
        b"%PDF": "a PDF",
        b"II*\0": "a TIFF",
        b"MM\0*": "a TIFF",
        b"<svg": "an SVG",
        b"<!DO": "a web page",
        b"<htm": "a web page",
        b"version https://git-lfs": "a Git LFS pointer",
    }
    for start, what in kinds.items():
        if data.startswith(start):
            return f"\nhint: it is {what}"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "\nhint: it is a HEIC or AVIF picture; save it as JPEG or PNG"
    return "\nhint: it is empty" if not data else ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
