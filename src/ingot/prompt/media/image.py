"""Whatever a picture comes from to RGB pixels. Files are decoded in a child process (`ingot.pixels`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.pixels.child import decode_image
from ingot.pixels.image import as_rgb, check_size
from ingot.prompt.media.source import IMAGE, AllowUrls, content, taken

Array = np.ndarray


def open_image(source: Any, allow_urls: AllowUrls = False) -> Array:
    """uint8 [H, W, 3] of a path, a `data:` URL, bytes, a PIL image or an array [H, W], [H, W, 3] or [H, W, 4].

    The camera's orientation is applied; of an animation the first frame is taken; transparency is dropped, not blended;
    16 bits a channel become 8. `allow_urls` lets an http(s) address be fetched (`fetch`). Raises ValueError in one
    sentence, FileNotFoundError for a path that is not there.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if found := taken(source, IMAGE, allow_urls):
        data, name = found
        return decode_image(data if isinstance(data, bytes) else content(data, name), name)
    if hasattr(source, "convert") and hasattr(source, "size"):  # a PIL image, without importing PIL to ask
        return np.ascontiguousarray(as_rgb(source, "the image"), np.uint8)
    raise ValueError(f"an image is a {type(source).__name__}; a path, data: URL, bytes, PIL image or array is needed")


def _from_array(array: Array) -> Array:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"an image is {array.dtype} {array.shape}; uint8 [H, W], [H, W, 3] or [H, W, 4] is needed")
    check_size(array.shape[1], array.shape[0], "the image")
    rgb = np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array[:, :, :3]
    return np.ascontiguousarray(rgb)
