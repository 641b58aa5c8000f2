"""Whatever a video comes from to a `Picture`: a file, of which some frames are seen, or a list of frames, of which all
are."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingot.pixels.child import decode_video, probe_video
from ingot.pixels.video import sample
from ingot.prompt.media.image import open_image
from ingot.prompt.media.picture import Picture, Preprocessor, resized
from ingot.prompt.media.source import VIDEO, AllowUrls, taken

UNKNOWN_FPS = 24.0  # of the reference, for frames that come without a rate


def open_video(
    source: Any,
    sees: Preprocessor,
    fps: float | None = None,
    max_pixels: int | None = None,
    max_frames: int | None = None,
    allow_urls: AllowUrls = False,
) -> Picture:
    """The video of a file (a path, a `data:` URL, bytes, an address where `allow_urls`) or of a list of frames.

    Of a file `fps` frames a second are seen (None: the checkpoint's rate, 2), spread evenly, at most `max_frames`; of a
    list all are, and `fps` is their rate (None: 24). ValueError in one sentence, FileNotFoundError for a path that is
    not there.
    """
    bytes_or_text = isinstance(source, str | bytes | bytearray | memoryview)
    frames_given = isinstance(source, Sequence | np.ndarray) and not bytes_or_text
    found = None if frames_given else _file(source, allow_urls)
    if found is None:
        if max_frames is not None:
            raise ValueError("max_frames is given for a list of frames, of which all are seen")
        frames = [open_image(frame, allow_urls) for frame in source]
        return sees.video(frames, [i / (fps or UNKNOWN_FPS) for i in range(len(frames))], max_pixels)
    seen: list[np.ndarray] = []
    (data, name), sampling = found, sees.sampling(fps, max_frames)
    for head, pixels in decode_video(data, name, *sampling):
        if pixels is None:
            about, seen = head, []
            size = sees.video_size(head["frames"], head["height"], head["width"], max_pixels)
        else:
            seen.append(resized(pixels, *size))
    return sees.film(seen, about["seconds"])


@dataclass(frozen=True)
class Glance:
    """What a video file is, and what of it will be seen."""

    width: int
    height: int
    seconds: float
    frames: int
    tokens: int


def glance(
    source: Any,
    sees: Preprocessor | None = None,
    fps: float | None = None,
    max_pixels: int | None = None,
    max_frames: int | None = None,
    allow_urls: AllowUrls = False,
) -> Glance:
    """The size, length and tokens of a video file, of which one frame is decoded; errors as of `open_video`."""
    sees = sees or Preprocessor()  # the official values
    about = probe_video(*_file(source, allow_urls))
    chosen = sample(about["frames"], about["fps"], *sees.sampling(fps, max_frames))
    height, width = sees.video_size(len(chosen), about["height"], about["width"], max_pixels)
    tokens = -(-len(chosen) // sees.temporal) * (height // sees.factor) * (width // sees.factor)
    return Glance(about["width"], about["height"], about["frames"] / about["fps"], len(chosen), tokens)


def _file(source: Any, allow_urls: AllowUrls = False) -> tuple[bytes | Path, str]:
    if (found := taken(source, VIDEO, allow_urls)) is None:
        raise ValueError(
            f"a video is a {type(source).__name__}; a path, data: URL, bytes or a list of frames is needed"
        )
    if importlib.util.find_spec("av") is None:
        raise ValueError(f"{found[1]} is a video file, for which PyAV is needed\nhint: pip install 'ingot-lm[video]'")
    return found
