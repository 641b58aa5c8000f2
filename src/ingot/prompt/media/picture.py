"""A picture or a video at the size at which it is seen, and its patches in the order of the vision tower."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ingot.prompt.media.size import image_size, video_size
from ingot.prompt.outside_text import read_json_object
from ingot.spec import VisionConfig
from ingot.spec.text_file import shown

Array = np.ndarray
# Taste: 64 and 1.3 times the official budgets. A small picture is enlarged to the lower one, so a hostile configuration
# could ask for any amount of memory.
MOST_LOW_PIXELS, MOST_PIXELS = 4_194_304, 33_554_432
MOST_FRAMES = 16_384  # taste: the official ones are 768
MOST_NORM = 1000.0  # taste: means and deviations are of values 0 to 1
TEXT_ONLY = (
    "this model reads text only; it was made without a vision tower\n"
    "hint: official models see, such as Qwen/Qwen3.5-0.8B; a GGUF model does with its mmproj file (--mmproj)"
)


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

    def patches(self, frame: int, begin: int = 0, end: int | None = None) -> Array:
        """float32 [rows * columns, 3 * temporal * patch * patch] of temporal patch `frame`, or its rows begin .. end:
        blocks of merge x merge patches row by row, the patches of a block row by row, each (channel, time, y, x),
        normalised."""
        p = self.preprocessor
        first = frame * p.temporal
        # an image is its own second frame
        pair = self.frames[np.minimum(np.arange(first, first + p.temporal), len(self.frames) - 1)]
        down, across = self.grid[1] // p.merge, self.grid[2] // p.merge
        blocks = pair.reshape(p.temporal, down, p.merge, p.patch, across, p.merge, p.patch, 3)
        count, strip = self.grid[1] * self.grid[2], p.merge * self.grid[2]  # of patches: all, and in a row of blocks
        end = count if end is None else end
        first = begin // strip
        some = blocks[:, first : -(-end // strip)]
        rows = some.transpose(1, 4, 2, 5, 7, 0, 3, 6).astype(np.float32)  # y, x, y in block, x in block, c, t, y, x
        mean, std = (np.array(v, np.float32)[:, None, None, None] * 255 for v in (p.mean, p.std))
        rows -= mean
        rows /= std
        return rows.reshape(-1, 3 * p.temporal * p.patch**2)[begin - first * strip : end - first * strip]


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
    video_fps: float = 2.0  # frames that are seen of a second of a video file
    video_frames: tuple[int, int] = (4, 768)  # fewest and most that are seen of a file
    frame_tokens: int | None = None  # most a frame of a video may take; None: the budget of all frames alone counts

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
            _channels(image, "image_mean", -MOST_NORM, MOST_NORM),
            _channels(image, "image_std", 1 / MOST_NORM, MOST_NORM),
            *_sampling(video, cls.video_fps, cls.video_frames),
        )
        for name, own in (
            ("patch_size", made.patch),
            ("merge_size", made.merge),
            ("temporal_patch_size", made.temporal),
        ):
            if image.get(name, own) != own:
                raise ValueError(f"preprocessor_config.json: {name} is {shown(image[name])}; the tower has {own}")
        return made

    @property
    def factor(self) -> int:
        """Sides are multiples of this many pixels."""
        return self.patch * self.merge

    def image(self, pixels: Array, max_pixels: int | None = None) -> Picture:
        """The picture of uint8 [H, W, 3], seen with `max_pixels` at most."""
        low, high = _bounded(self.image_pixels, max_pixels, self.factor)
        height, width = image_size(pixels.shape[0], pixels.shape[1], self.factor, low, high)
        return Picture(resized(pixels, height, width)[None], self._grid(1, height, width), self)

    def video(self, frames: Sequence[Array], seconds: Sequence[float], max_pixels: int | None = None) -> Picture:
        """The video of uint8 frames [H, W, 3], all of one size, shown at `seconds`; the last is repeated to a whole
        temporal patch."""
        if len(sizes := sorted({frame.shape[:2] for frame in frames})) > 1:
            (height, width), (other, wide) = sizes[:2]
            raise ValueError(f"the video has frames of {width} x {height} and {wide} x {other} pixels; give one size")
        height, width = sizes[0] if sizes else (0, 0)
        size = self.video_size(len(frames), height, width, max_pixels)
        return self.film([resized(frame, *size) for frame in frames], seconds)

    def video_size(self, frames: int, height: int, width: int, max_pixels: int | None = None) -> tuple[int, int]:
        """Height and width at which so many frames are seen, all together with `max_pixels` at most."""
        if frames < self.temporal:
            raise ValueError(f"the video has {frames} frames; {self.temporal} are needed")
        low, high = _bounded(self.video_pixels, max_pixels, self.factor)
        if self.frame_tokens is not None:  # as transformers does with cap_pixels_per_frame
            high = frames * max(min(self.frame_tokens * self.factor**2, high // frames), int(low * 1.05))
        return video_size(frames, height, width, self.factor, self.temporal, low, high)

    def film(self, frames: Sequence[Array], seconds: Sequence[float]) -> Picture:
        """The video of frames that have the size at which they are seen; the last is repeated to a whole temporal
        patch."""
        whole = -(-len(frames) // self.temporal) * self.temporal
        index = np.minimum(np.arange(whole), len(frames) - 1)
        times = np.array(seconds, np.float64)[index].reshape(-1, self.temporal)
        middle = tuple(float(t) for t in (times[:, 0] + times[:, -1]) / 2)
        stack = np.stack([frames[i] for i in index])
        return Picture(stack, self._grid(whole // self.temporal, *stack.shape[1:3]), self, middle)

    def sampling(self, fps: float | None, max_frames: int | None) -> tuple[float, int, int]:
        """Frames a second, fewest and most frames that are seen of a video file."""
        fewest, most = self.video_frames
        if max_frames is not None:
            if isinstance(max_frames, bool) or not isinstance(max_frames, int) or max_frames < self.temporal:
                raise ValueError(f"max_frames is {max_frames!r}; it must be at least {self.temporal}")
            fewest, most = min(fewest, max_frames), min(most, max_frames)
        return float(fps or self.video_fps), fewest, most

    def _grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        return frames, height // self.patch, width // self.patch


def resized(pixels: Array, height: int, width: int) -> Array:
    """uint8 [height, width, 3] of another size: bicubic with antialiasing, rounded to whole levels."""
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
    return read_json_object(path) if os.path.lexists(path) else {}


def _budget(config: Mapping[str, Any], default: tuple[int, int], name: str) -> tuple[int, int]:
    size = config.get("size") or {}
    if not isinstance(size, Mapping):
        raise ValueError(f"{name}: size is {shown(size)}; an object with shortest_edge and longest_edge is needed")
    low = size.get("shortest_edge", config.get("min_pixels", default[0]))
    high = size.get("longest_edge", config.get("max_pixels", default[1]))
    if not (_is_count(low) and _is_count(high) and 0 < low <= high):
        raise ValueError(
            f"{name}: the pixel budget is {shown(low)} to {shown(high)}; two positive numbers in order are needed"
        )
    if low > MOST_LOW_PIXELS or high > MOST_PIXELS:
        most = f"{MOST_LOW_PIXELS:,} to {MOST_PIXELS:,}"
        raise ValueError(f"{name}: the pixel budget is {shown(low)} to {shown(high)}; {most} is the most")
    return low, high


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _channels(config: Mapping[str, Any], key: str, low: float, high: float) -> tuple[float, ...]:
    """The three numbers of `key`, each from `low` to `high`."""
    values = config.get(key, (0.5, 0.5, 0.5))
    fits = isinstance(values, list | tuple) and len(values) == 3
    if not fits or not all(type(value) in (int, float) and low <= value <= high for value in values):
        raise ValueError(
            f"preprocessor_config.json: {key} is {shown(values)}; three numbers from {low:g} to {high:g} are needed"
        )
    return tuple(float(value) for value in values)


def _sampling(
    config: Mapping[str, Any], fps: float, frames: tuple[int, int]
) -> tuple[float, tuple[int, int], int | None]:
    """fps, min_frames and max_frames, and the tokens of a frame where they are bounded."""
    name = "video_preprocessor_config.json"
    fps = config.get("fps") or fps
    fewest, most = (config.get(key) or value for key, value in zip(("min_frames", "max_frames"), frames, strict=True))
    if type(fps) not in (int, float) or not 0 < fps < 1e6:
        raise ValueError(f"{name}: fps is {shown(fps)}; a positive number of frames a second is needed")
    if not (_is_count(fewest) and _is_count(most) and 0 < fewest <= most <= MOST_FRAMES):
        given = f"{shown(fewest)} and {shown(most)}"
        raise ValueError(f"{name}: min_frames and max_frames are {given}; two numbers in order up to {MOST_FRAMES:,}")
    tokens = config.get("max_video_tokens") or 768
    if not (_is_count(tokens) and tokens > 0):
        raise ValueError(f"{name}: max_video_tokens is {shown(tokens)}; a positive number is needed")
    return float(fps), (fewest, most), tokens if config.get("cap_pixels_per_frame") else None
