"""A picture or a video at the size at which it is seen, and its patches in the order of the vision tower."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ingot.prompt.media.size import image_size, video_size
from ingot.prompt.outside_text import read_json_object
from ingot.spec import VisionConfig

Array = np.ndarray


@dataclass(frozen=True)
class Picture:
    """`frames`: uint8 [t * temporal, H, W, 3], a single one for an image; `grid`: t, rows and columns of patches.

    `seconds` has the time of every temporal patch of a video, and is empty for an image.
    """

    frames: Array
    grid: tuple[int, int, int]
    preprocessor: Preprocessor
    seconds: tuple[float, ...] = ()

    @property
    def is_video(self) -> bool:
        return bool(self.seconds)

    @property
    def tokens(self) -> int:
        """Placeholders of the whole: a block of patches becomes one token."""
        return self.grid[0] * self.tokens_a_frame

    @property
    def tokens_a_frame(self) -> int:
        return self.grid[1] * self.grid[2] // self.preprocessor.merge**2

    @cached_property
    def digest(self) -> str:
        """Of all that the tower sees."""
        about = json.dumps([self.grid, self.frames.shape, self.preprocessor.mean, self.preprocessor.std])
        return hashlib.sha256(about.encode() + np.ascontiguousarray(self.frames).tobytes()).hexdigest()

    def patches(self, frame: int) -> Array:
        """float32 [rows * columns, 3 * temporal * patch * patch] of temporal patch `frame`: blocks of merge x merge
        patches row by row, the patches of a block row by row, each (channel, time, y, x), normalised."""
        p = self.preprocessor
        first = frame * p.temporal
        # an image is its own second frame
        pair = self.frames[np.minimum(np.arange(first, first + p.temporal), len(self.frames) - 1)]
        down, across = self.grid[1] // p.merge, self.grid[2] // p.merge
        blocks = pair.reshape(p.temporal, down, p.merge, p.patch, across, p.merge, p.patch, 3)
        rows = blocks.transpose(1, 4, 2, 5, 7, 0, 3, 6).astype(np.float32)  # y, x, y in block, x in block, c, t, y, x
        mean, std = (np.array(v, np.float32)[:, None, None, None] * 255 for v in (p.mean, p.std))
        return ((rows - mean) / std).reshape(self.grid[1] * self.grid[2], -1)


@dataclass(frozen=True)
class Preprocessor:
    """What a checkpoint's preprocessor configurations say: patch sizes, pixel budgets, normalisation."""

    patch: int = 16
    merge: int = 2
    temporal: int = 2
    image_pixels: tuple[int, int] = (65_536, 16_777_216)
    video_pixels: tuple[int, int] = (4_096, 25_165_824)
    mean: tuple[float, ...] = field(default=(0.5, 0.5, 0.5))
    std: tuple[float, ...] = field(default=(0.5, 0.5, 0.5))

    @classmethod
    def from_directory(cls, path: str | Path, vision: VisionConfig) -> Preprocessor:
        """From preprocessor_config.json and video_preprocessor_config.json where they are there, else the official
        budgets; ValueError where they contradict the tower."""
        image = _read(Path(path) / "preprocessor_config.json")
        return cls.from_configs(image, _read(Path(path) / "video_preprocessor_config.json"), vision)

    @classmethod
    def from_configs(cls, image: Mapping[str, Any], video: Mapping[str, Any], vision: VisionConfig) -> Preprocessor:
        """From what these files would hold."""
        made = cls(
            vision.patch_size,
            vision.spatial_merge_size,
            vision.temporal_patch_size,
            _budget(image, cls.image_pixels, "preprocessor_config.json"),
            _budget(video, cls.video_pixels, "video_preprocessor_config.json"),
            tuple(image.get("image_mean", (0.5, 0.5, 0.5))),
            tuple(image.get("image_std", (0.5, 0.5, 0.5))),
        )
        for name, own in (
            ("patch_size", made.patch),
            ("merge_size", made.merge),
            ("temporal_patch_size", made.temporal),
        ):
            if image.get(name, own) != own:
                raise ValueError(f"preprocessor_config.json: {name} is {image[name]!r}; the vision tower has {own}")
        return made

    @property
    def factor(self) -> int:
        """Sides are multiples of this many pixels."""
        return self.patch * self.merge

    def image(self, pixels: Array, max_pixels: int | None = None) -> Picture:
        """The picture of uint8 [H, W, 3], seen with `max_pixels` at most."""
        low, high = _bounded(self.image_pixels, max_pixels, self.factor)
        height, width = image_size(pixels.shape[0], pixels.shape[1], self.factor, low, high)
        return Picture(_resized(pixels, height, width)[None], self._grid(1, height, width), self)

    def video(self, frames: Sequence[Array], seconds: Sequence[float], max_pixels: int | None = None) -> Picture:
        """The video of uint8 frames [H, W, 3], all of one size, shown at `seconds`; the last is repeated to a whole
        temporal patch."""
        if len(frames) < self.temporal:
            raise ValueError(f"the video has {len(frames)} frames; {self.temporal} are needed")
        if len(sizes := sorted({frame.shape[:2] for frame in frames})) > 1:
            (height, width), (other, wide) = sizes[:2]
            raise ValueError(f"the video has frames of {width} x {height} and {wide} x {other} pixels; give one size")
        low, high = _bounded(self.video_pixels, max_pixels, self.factor)
        height, width = frames[0].shape[:2]
        height, width = video_size(len(frames), height, width, self.factor, self.temporal, low, high)
        whole = -(-len(frames) // self.temporal) * self.temporal
        index = np.minimum(np.arange(whole), len(frames) - 1)
        resized = [_resized(frame, height, width) for frame in frames]
        times = np.array(seconds, np.float64)[index].reshape(-1, self.temporal)
        middle = tuple(float(t) for t in (times[:, 0] + times[:, -1]) / 2)
        stack = np.stack([resized[i] for i in index])
        return Picture(stack, self._grid(whole // self.temporal, height, width), self, middle)

    def _grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        return frames, height // self.patch, width // self.patch


def _resized(pixels: Array, height: int, width: int) -> Array:
    """Bicubic with antialiasing, rounded to whole levels."""
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _bounded(budget: tuple[int, int], max_pixels: int | None, factor: int) -> tuple[int, int]:
    low, high = budget
    if max_pixels is None:
        return budget
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < factor * factor:
        raise ValueError(f"max_pixels is {max_pixels!r}; it must be at least {factor * factor}, one token")
    return min(low, max_pixels), min(high, max_pixels)


def _read(path: Path) -> Mapping[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _budget(config: Mapping[str, Any], default: tuple[int, int], name: str) -> tuple[int, int]:
    size = config.get("size") or {}
    low = size.get("shortest_edge", config.get("min_pixels", default[0]))
    high = size.get("longest_edge", config.get("max_pixels", default[1]))
    if not (isinstance(low, int) and isinstance(high, int) and 0 < low <= high):
        raise ValueError(f"{name}: the pixel budget is {low!r} to {high!r}; two positive numbers in order are needed")
    return low, high
