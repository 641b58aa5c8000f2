"""The size at which a picture or a video is seen: sides that are multiples of a factor, pixels within a budget.

Rounding is Python's, ties to even, as where the weights were trained: 336 pixels become 320 (10.5 blocks of 32 -> 10).
"""

from __future__ import annotations

import math

from ingot.pixels.image import check_aspect


def image_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width at which an image is seen; ValueError for a strip of more than 200 : 1."""
    check_aspect(width, height, "the image")
    return _fit(height, width, 1, 1, factor, min_pixels, max_pixels)


def video_size(
    frames: int, height: int, width: int, factor: int, temporal: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Height and width at which `frames` frames are seen; the budget counts the pixels of all of them, rounded to whole
    pairs. Sides under one block grow first."""
    if min(height, width) < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    check_aspect(width, height, "the video")
    return _fit(height, width, frames, round(frames / temporal) * temporal, factor, min_pixels, max_pixels)


def _fit(
    height: int, width: int, frames: int, counted: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    rounded = round(height / factor) * factor, round(width / factor) * factor
    pixels = counted * rounded[0] * rounded[1]
    if pixels > max_pixels:
        shrink = math.sqrt(frames * height * width / max_pixels)
        down = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        return next(down), next(down)
    if pixels < min_pixels:
        grow = math.sqrt(min_pixels / (frames * height * width))
        up = (math.ceil(side * grow / factor) * factor for side in (height, width))
        return next(up), next(up)
    return rounded
