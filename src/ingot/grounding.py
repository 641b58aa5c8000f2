"""Where a model says things are: boxes and points of an answer, in pixels of the picture, and drawn on it.

The family writes coordinates from 0 to 1000 over the picture's width and height, whatever size it was seen at: as JSON
with `bbox_2d` [x1, y1, x2, y2] or `point_2d` [x, y] and a `label`; in older models as
<ref>label</ref><box>(x1,y1),(x2,y2)</box>.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCALE = 1000  # of the model's coordinates
FOUND = 1000  # most that are read of one answer (taste)
BOXES, POINTS = ("bbox_2d", "bbox", "box_2d", "box"), ("point_2d", "point")
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")
_NUMBER = r"\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*"
_PAIR = rf"\({_NUMBER},{_NUMBER}\)"
_WRITTEN = re.compile(
    r"(?:(?:<ref>|<\|object_ref_start\|>)(?P<label>[^<]{0,200})(?:</ref>|<\|object_ref_end\|>)\s*)?"
    rf"(?:<box>|<\|box_start\|>)\s*{_PAIR}\s*(?:,\s*{_PAIR})?\s*(?:</box>|<\|box_end\|>)"
)


@dataclass(frozen=True)
class Found:
    """Something in a picture: a `box` (left, top, right, bottom) or a `point` (x, y), in pixels; the other is None."""

    label: str
    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None


def parse(text: str, size: tuple[int, int]) -> list[Found]:
    """The boxes and points in an answer, in its order, in pixels of a picture of `size` (width, height).

    JSON may stand alone, in a list, in a fence, among words, or be cut off: what is whole of it counts. What has no
    four (or two) finite numbers is passed over; coordinates beyond the picture are brought to its edge, corners in the
    wrong order are exchanged. ValueError for a size that no picture has.
    """
    width, height = size
    if not (width >= 1 and height >= 1):
        raise ValueError(f"size is {size!r}; the width and height of a picture in pixels are needed")
    places = sorted([*_in_json(text), *_written(text)], key=lambda place: place[0])
    return [_scaled(label, numbers, width, height) for _, label, numbers in places[:FOUND]]


def draw(picture: Any, found: Sequence[Found]) -> Any:
    """A PIL image: a copy of the picture (whatever `open_image` takes) with boxes, points and labels on it, a colour a
    label."""
    from PIL import Image, ImageDraw, ImageFont

    from ingot.prompt.media import open_image

    image = Image.fromarray(open_image(picture))
    brush = ImageDraw.Draw(image)
    thick = max(2, round(max(image.size) / 400))
    font = ImageFont.load_default(size=max(10, 6 * thick))
    labels = list(dict.fromkeys(one.label for one in found))
    for one in found:
        colour = COLOURS[labels.index(one.label) % len(COLOURS)]
        if one.box is not None:
            brush.rectangle(one.box, outline=colour, width=thick)
        x, y = one.box[:2] if one.box is not None else one.point or (0.0, 0.0)
        if one.point is not None:
            brush.ellipse((x - 2 * thick, y - 2 * thick, x + 2 * thick, y + 2 * thick), fill=colour, outline="white")
        if one.label:
            _write(brush, one.label[:80], x, y, colour, font)
    return image


def _write(brush: Any, label: str, x: float, y: float, colour: str, font: Any) -> None:
    """A label over the place, or under its edge at the top of the picture."""
    text = "".join(c if c.isprintable() else " " for c in label)
    left, top, right, bottom = brush.textbbox((x, y), text, font=font)
    up = min(bottom - y, y)
    brush.rectangle((left, top - up, right, bottom - up), fill=colour)
    brush.text((x, y - up), text, fill="white", font=font)


def _in_json(text: str) -> Iterator[tuple[int, str, Sequence[float]]]:
    """(where, label, numbers) of every JSON object with a box or a point, at whatever depth it stands."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        end = at + 1
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            pass  # not JSON, or cut off: an object inside it may be whole
        else:
            yield from ((at, *one) for one in _of_value(value))
        at = text.find("{", end)


def _of_value(value: Any) -> Iterator[tuple[str, Sequence[float]]]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            numbers = next(
                (n for key in (*BOXES, *POINTS) if (n := _numbers(one.get(key), 4 if key in BOXES else 2))), None
            )
            if numbers:
                yield _label(one), numbers
            waiting += reversed([v for v in one.values() if isinstance(v, Mapping | list)])
        elif isinstance(one, list):
            waiting += reversed([v for v in one if isinstance(v, Mapping | list)])


def _label(one: Mapping[str, Any]) -> str:
    label = next((one[key] for key in ("label", "name", "text_content", "text") if isinstance(one.get(key), str)), "")
    return str(label)


def _numbers(value: Any, count: int) -> Sequence[float] | None:
    if not isinstance(value, list) or len(value) != count:
        return None
    good = all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < 1e9 for n in value)
    return [float(n) for n in value] if good and all(map(math.isfinite, value)) else None


def _written(text: str) -> Iterator[tuple[int, str, Sequence[float]]]:
    for match in _WRITTEN.finditer(text):
        label, *numbers = match.groups()
        yield match.start(), (label or "").strip(), [float(n) for n in numbers if n is not None]


def _scaled(label: str, numbers: Sequence[float], width: int, height: int) -> Found:
    xs = sorted(min(max(n, 0), SCALE) * width / SCALE for n in numbers[0::2])
    ys = sorted(min(max(n, 0), SCALE) * height / SCALE for n in numbers[1::2])
    if len(xs) == 1:
        return Found(label, point=(xs[0], ys[0]))
    return Found(label, box=(xs[0], ys[0], xs[1], ys[1]))
