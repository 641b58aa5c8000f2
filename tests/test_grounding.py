"""Boxes and points of answers, well and badly written, in pixels and on a picture."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.grounding import Found, draw, parse

SIZE = (2000, 500)  # a thousandth is 2 pixels across and half a pixel down
CUP = Found("cup", box=(200, 100, 600, 200))
SPOT = Found("spot", point=(1000, 125))
BOX = '{"bbox_2d": [100, 200, 300, 400], "label": "cup"}'
POINT = '{"point_2d": [500, 250], "label": "spot"}'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (BOX, [CUP]),
        (f"[{BOX}, {POINT}]", [CUP, SPOT]),
        (f"```json\n[\n\t{BOX},\n\t{POINT}\n]\n```", [CUP, SPOT]),
        (f"Here it is: {BOX} and {POINT}.", [CUP, SPOT]),
        (f'{{"objects": [{BOX}, {POINT}]}}', [CUP, SPOT]),
        (f'[{BOX}, {{"bbox_2d": [1, 2, 3', [CUP]),  # cut off by max_tokens
        (f'{{"objects": [{BOX}, {{"bbox_2d": [1,', [CUP]),
        ('{"bbox_2d": [300, 400, 100, 200], "label": "cup"}', [CUP]),  # corners exchanged
        ('{"bbox_2d": [100.0, 2e2, 300, 400], "label": "cup"}', [CUP]),
        ('{"bbox": [0, 0, 5000, -3]}', [Found("", box=(0, 0, 2000, 0))]),
        ("<ref>cup</ref><box>(100,200),(300,400)</box>", [CUP]),
        ("<|object_ref_start|> cup <|object_ref_end|><|box_start|>(100, 200),(300, 400)<|box_end|>", [CUP]),
        ("<box>(100,200),(300,400)</box>", [Found("", box=CUP.box)]),
        ("a <ref>spot</ref><box>(500,250)</box> b", [SPOT]),
        (f"<ref>cup</ref><box>(100,200),(300,400)</box> {POINT}", [CUP, SPOT]),
        ("", []),
        ("no boxes {here} at [1, 2, 3, 4]", []),
        ('{"bbox_2d": [1, 2, 3]}', []),
        ('{"bbox_2d": [1, 2, 3, 4, 5]}', []),
        ('{"bbox_2d": [1, 2, 3, "4"]}', []),
        ('{"bbox_2d": [true, 2, 3, 4]}', []),
        ('{"bbox_2d": [NaN, 2, 3, Infinity]}', []),
        ('{"bbox_2d": {"x": 1}}', []),
        ("<box>(1,2),(3)</box>", []),
        ("<box>(1,2),(3,4)", []),
        ('{"bbox_2d": [' + "9" * 5000 + ", 1, 2, 3]}", []),
        ("[" * 100_000, []),
        ('{"a":' * 3_000, []),
    ],
)
def test_what_is_found(text: str, found: list[Found]) -> None:
    assert parse(text, SIZE) == found


@given(st.text(st.sampled_from('{}[]",:0123456789. <>/()boxrefpint_2dlabel\n'), max_size=200))
def test_no_text_is_too_odd(text: str) -> None:
    for one in parse(text, SIZE):
        assert (one.box is None) != (one.point is None)


@given(st.lists(st.tuples(*[st.integers(0, 1000)] * 4, st.text(max_size=9)), max_size=9))
def test_what_is_written_is_read(boxes: list[Any]) -> None:
    text = json.dumps([{"bbox_2d": box[:4], "label": box[4]} for box in boxes])
    got = parse(text, (1000, 1000))
    assert [one.label for one in got] == [box[4] for box in boxes]
    assert [one.box for one in got] == [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d, _ in boxes]


def test_a_picture_has_a_size() -> None:
    with pytest.raises(ValueError, match=r"size is \(0, 5\); the width and height of a picture in pixels are needed"):
        parse(BOX, (0, 5))


def test_drawn_on_a_copy() -> None:
    picture = np.full((100, 160, 3), 255, np.uint8)
    image = draw(
        picture, [Found("cup", box=(40, 50, 120, 90)), Found("spot\x1b", point=(20, 20)), Found("", (0, 0, 9, 9))]
    )
    drawn = np.asarray(image)
    assert (picture == 255).all()
    assert image.size == (160, 100)
    assert drawn[70, 40].tolist() == [0xE6, 0x19, 0x4B]
    assert drawn[70, 80].tolist() == [255, 255, 255]  # inside
    assert drawn[20, 20].tolist() == [0x3C, 0xB4, 0x4B]
    assert (drawn[36:49, 40:60] != 255).any()  # the label stands over its box
