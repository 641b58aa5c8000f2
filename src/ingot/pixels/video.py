"""A video file to some of its frames, by PyAV; run in the child process where there is one.

The demuxer is chosen by the file's first bytes and opened by name on a Python file, so that no playlist, no other file
and no address is ever followed; of the decoders a few may run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ingot.pixels.image import RefusedError, check_size, sentences
from ingot.pixels.limits import FRAME_PIXELS, FRAMES, VIDEO_CODECS, VIDEO_FORMATS

THREADS = 4  # of a decoder (taste; each has a picture or two of its own)


@dataclass(frozen=True)
class Index:
    """What a file holds: its video frames' number and rate, and the times at which they are shown (empty: unknown)."""

    frames: int
    fps: float
    times: Sequence[float]

    def seconds(self, chosen: Sequence[int]) -> list[float]:
        """When the chosen frames are shown: index / fps, as the reference has it, where the file's own times agree with
        that to half a frame; else (a variable frame rate) its own times."""
        even = [i / self.fps for i in chosen]
        if len(self.times) < self.frames:
            return even
        own = [self.times[i] - self.times[0] for i in chosen]
        agree = all(abs(a - b) * self.fps <= 0.5 for a, b in zip(own, even, strict=True))
        return even if agree else own


def sample(frames: int, fps: float, wanted_fps: float, fewest: int, most: int) -> list[int]:
    """Which of `frames` frames are seen: `wanted_fps` a second, `fewest` to `most` of them, spread from first to last,
    rounded half to even. Source: Qwen3VLVideoProcessor of transformers 5.23."""
    count = min(max(int(min(frames / fps * wanted_fps, frames)), fewest), most, frames)
    step = (frames - 1) / (count - 1) if count > 1 else 0.0
    return [round(i * step) for i in range(count - 1)] + [frames - 1 if count > 1 else 0]


def probe(file: BinaryIO, name: str) -> dict[str, Any]:
    """Frames, rate, width and height of a video, of which the first frame alone is decoded."""
    index = read_index(file, name)
    _, first = next(_chosen(file, name, [0]))
    return {"frames": index.frames, "fps": index.fps, "height": first.shape[0], "width": first.shape[1]}


def frames(file: BinaryIO, name: str, fps: float, fewest: int, most: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """A header {"frames", "height", "width", "seconds"} with None, then ({"frame": i}, uint8 [H, W, 3]) for each frame
    seen. Where fewer frames can be decoded than the file lists, a new header begins it again."""
    index = read_index(file, name)
    while True:
        chosen = sample(index.frames, index.fps, fps, fewest, most)
        seen = 0
        for number, pixels in _chosen(file, name, chosen):
            if number < 0:  # not one was left out, but the list has more: invisible frames, edits
                break
            if seen == 0:
                height, width = pixels.shape[:2]
                about = {"frames": len(chosen), "height": height, "width": width}
                yield about | {"seconds": index.seconds(chosen)}, None
            elif pixels.shape[:2] != (height, width):
                size = f"{pixels.shape[1]} x {pixels.shape[0]}"
                raise RefusedError(f"{name} changes from {width} x {height} to {size} pixels at frame {chosen[seen]:,}")
            yield {"frame": seen}, pixels
            seen += 1
        if seen == len(chosen):
            return
        index = _shorter(index, -number, name)


def _shorter(index: Index, there: int, name: str) -> Index:
    if not 0 < there < index.frames:
        raise RefusedError(f"{name} is damaged or cut short: {there:,} of {index.frames:,} frames can be decoded")
    return Index(there, index.fps, ())


def read_index(file: BinaryIO, name: str) -> Index:
    """The frames of a file, listed without decoding them; an error for one that is cut short."""
    with _Opened(file, name) as (container, stream), sentences(name):
        times: list[float] = []
        listed, shown, end = 0, 0, 0.0
        for packet in container.demux():
            if not packet.size:
                continue
            when = None if packet.pts is None else float(packet.pts * packet.time_base)
            end = max(end, when or 0.0)
            if packet.stream.index == stream.index:
                listed += 1
                shown += not packet.is_discard  # cut off by an edit
                times += [] if when is None or packet.is_discard else [when]
            if listed > FRAMES:
                raise RefusedError(f"{name} has more frames than {FRAMES:,}, which are the most")
        _check_whole(container, stream, name, listed, end)
        rates = (stream.average_rate, stream.guessed_rate, 24)  # 24: of the reference
        fps = next(float(rate) for rate in rates if rate and rate > 0)
    return Index(shown, fps, sorted(times) if len(times) == shown else ())


def _check_whole(container: Any, stream: Any, name: str, frames: int, end: float) -> None:
    """Files tell how many frames, or how many seconds, they hold."""
    if not frames:
        raise RefusedError(f"{name} is damaged or cut short: it holds not one frame")
    if stream.frames > frames:
        raise RefusedError(f"{name} is damaged or cut short: {frames:,} of {stream.frames:,} frames are there")
    length = (container.duration or 0) / 1_000_000
    if (
        not stream.frames and end and end + 1 < length * 0.95
    ):  # a second and 5 %: durations are rounded, sounds end late
        raise RefusedError(f"{name} is damaged or cut short: {end:.1f} of {length:.1f} seconds are there")


class _Opened:
    """`with _Opened(file, name) as (container, stream)`: the first video stream, of a codec that may run."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name = file, name

    def __enter__(self) -> tuple[Any, Any]:
        import av

        av.logging.set_level(av.logging.PANIC)
        self.file.seek(0)
        kind = _demuxer(self.file.read(16), self.name)
        self.file.seek(0)
        # no protocol is named "none": what is referred to cannot be opened
        closed = {"protocol_whitelist": "none", "codec_whitelist": ",".join(VIDEO_CODECS)}
        with sentences(self.name):
            self.container = av.open(self.file, format=kind, options=closed, metadata_errors="replace")
        try:
            return self.container, self._stream()
        except BaseException:
            self.container.close()
            raise

    def __exit__(self, *raised: object) -> None:
        self.container.close()

    def _stream(self) -> Any:
        import av

        cover = av.stream.Disposition.attached_pic  # of a song: a video of one frame, for ffmpeg
        stream = next((s for s in self.container.streams.video if not s.disposition & cover), None)
        if stream is None:
            sound = "; it holds sound alone" if self.container.streams.audio else ""
            raise RefusedError(f"{self.name} has no video stream{sound}")
        context = stream.codec_context
        if context is None or context.codec.name not in VIDEO_CODECS:
            raise RefusedError(
                f"{self.name} is coded as {context.codec.name if context else 'something unknown'}; Ingot decodes "
                "H.264, H.265, AV1, VP8, VP9, MPEG-1, -2 and -4, MJPEG, ProRes and Theora"
            )
        check_size(context.width, context.height, self.name, FRAME_PIXELS)
        context.thread_type, context.thread_count = "AUTO", THREADS
        context.options = {"max_pixels": str(FRAME_PIXELS)}  # the stream may tell another size than its file
        return stream


def _demuxer(start: bytes, name: str) -> str:
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "mov"
    if start.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
        return "avi"
    hint = "\nhint: it is empty" if not start else ""
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")) or start[8:12] == b"WEBP":
        hint = "\nhint: it is a picture, which is shown as one (--image, or a part of type 'image')"
    raise RefusedError(f"{name} is not a video that Ingot reads ({VIDEO_FORMATS}){hint}")


def _chosen(file: BinaryIO, name: str, chosen: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(number, RGB) of the chosen frames in order; (-count, None) when the file ends before the last of them."""
    with _Opened(file, name) as (container, stream), sentences(name):
        number, left = 0, list(reversed(chosen))
        for frame in container.decode(stream):
            if number == left[-1]:
                check_size(frame.width, frame.height, name, FRAME_PIXELS)
                yield number, _upright(frame)
                left.pop()
            number += 1
            if not left:
                return
        yield -number, None


def _upright(frame: Any) -> Any:
    """uint8 [H, W, 3], turned as the camera was."""
    import numpy as np

    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
