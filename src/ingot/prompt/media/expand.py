"""Placeholders become as many tokens as the tower gives, and every token gets its three positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.prompt.media.picture import Picture
from ingot.spec import Config

Array = np.ndarray


@dataclass(frozen=True)
class Expanded:
    """`ids` int32 [T], `positions` int32 [3, T] (M-RoPE: temporal, height, width), and for every picture the tokens
    `rows[i]` that its features take. `ends` has for each picture how many tokens there were up to its end before and
    after."""

    ids: Array
    positions: Array
    rows: tuple[Array, ...]
    ends: tuple[tuple[int, int], ...] = ()

    def place(self, tokens: int) -> int:
        """How many of the ids are what the first `tokens` were; inside of a picture's markup: up to it."""
        before, after = max((end for end in self.ends if end[0] <= tokens), default=(0, 0))
        return after + tokens - before


def expand(
    ids: Array,
    pictures: Sequence[Picture],
    config: Config,
    encode: Callable[[str], Sequence[int]],
    video_wrapper: bool = True,
) -> Expanded:
    """The placeholders in `ids`, one a picture in order, made long.

    A video's placeholder becomes, for every temporal patch, `<1.5 seconds>`, vision start, its pads, vision end.
    `video_wrapper` keeps the vision start and end that the template wrote around a video (transformers 5.10 and later);
    without it they go, as where the weights were released. ValueError when placeholders and pictures do not match.
    """
    ids = np.asarray(ids)
    image, video = config.image_token_id, config.video_token_id
    places = np.flatnonzero((ids == image) | (ids == video))
    wanted = [video if picture.is_video else image for picture in pictures]
    if ids[places].tolist() != wanted:
        raise ValueError(
            f"the prompt has {len(places)} placeholders for {len(pictures)} pictures and videos, or another order\n"
            "hint: a text must not hold <|image_pad|> or <|video_pad|>; pictures are parts of a message's content"
        )
    parts: list[Array] = []
    runs: list[list[tuple[int, int]]] = []  # (first token, frame) of every picture's runs of pads
    ends: list[tuple[int, int]] = []
    length, last = 0, 0

    def put(piece: Sequence[int] | Array) -> None:
        nonlocal length
        parts.append(np.asarray(piece, np.int32))
        length += len(piece)

    for place, picture in zip(places.tolist(), pictures, strict=True):
        bare = picture.is_video and not video_wrapper
        put(ids[last : place - 1 if bare else place])
        last = place + (2 if bare else 1)
        runs.append([])
        for frame in range(picture.grid[0]):
            if picture.is_video:
                put([*encode(f"<{picture.seconds[frame]:.1f} seconds>"), config.vision_start_token_id])
            runs[-1].append((length, frame))
            put(np.full(picture.tokens_a_frame, video if picture.is_video else image))
            if picture.is_video:
                put([config.vision_end_token_id])
        ends.append((last, length))
    put(ids[last:])
    whole = np.concatenate(parts)
    rows = tuple(
        np.concatenate([np.arange(at, at + picture.tokens_a_frame) for at, _ in of_one])
        for picture, of_one in zip(pictures, runs, strict=True)
    )
    flat = [(at, picture) for picture, of_one in zip(pictures, runs, strict=True) for at, _ in of_one]
    return Expanded(whole, _positions(length, flat), rows, tuple(ends))


def _positions(length: int, runs: Sequence[tuple[int, Picture]]) -> Array:
    """A text goes on on all three axes; a frame stands still in time and spans its own height and width."""
    positions = np.empty((3, length), np.int32)
    at = now = 0

    def text(end: int) -> None:
        nonlocal at, now
        positions[:, at:end] = np.arange(now, now + end - at)
        now, at = now + end - at, end

    for begin, picture in runs:
        text(begin)
        merge = picture.preprocessor.merge
        down, across = picture.grid[1] // merge, picture.grid[2] // merge
        block = positions[:, begin : begin + down * across]
        block[0] = now
        block[1] = now + np.repeat(np.arange(down), across)
        block[2] = now + np.tile(np.arange(across), down)
        now, at = now + max(down, across), begin + down * across
    text(length)
    return positions
