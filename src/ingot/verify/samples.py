"""The fixed prompts and pictures: the same for everybody, so that digests can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np

TOKENS = 48  # of a text that are used (taste: decoding them with 9B takes a minute on two cores)
IDS = 70  # of the prompt that needs no tokenizer: past 64, the block in which attention reduces
TEXTS = {
    "english": "The lighthouse keeper counted the ships every evening and wrote their names into a large grey book. "
    "One night a ship came without a name, and he did not know what to write.",
    "code": 'def mean(values: list[float]) -> float:\n    """The arithmetic mean."""\n    if not values:\n        '
    'raise ValueError("no values")\n    return sum(values) / len(values)\n\n\nprint(mean([1.5, 2.5]))\n',
    "numbers": "3.14159 * 2 = 6.28318; 17 + 25 = 42; 1,000,000 - 1 = 999,999; 2026-03-14T15:09:26Z; 0x1F600; 50 %",
    "languages": "北京是中国的首都。東京は日本の首都です。"
    "Der Fluß fließt langsam. Où est la gare ? Москва слезам не верит. 🙂🚀",
}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "How many legs do three spiders have?"},
    {"role": "assistant", "content": "Twenty-four: eight each."},
    {"role": "user", "content": "And two of them with a dog?"},
]
QUESTION = "What is in this picture?"


def fixed_ids(vocabulary: int) -> np.ndarray:
    """Ids all over the vocabulary."""
    return ((np.arange(IDS, dtype=np.int64) * 7919 + 13) % vocabulary).astype(np.int32)


def picture(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: a slope of colour, a disc, bars and a fine pattern, in whole numbers alone."""
    y, x = np.mgrid[0:height, 0:width]
    slope = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (width + height - 2)], axis=-1)
    inside = (2 * x - width) ** 2 + (2 * y - height) ** 2 < (min(height, width) // 2) ** 2
    slope[inside] = (220, 40, 60)
    slope[(x // 7 % 2 == 0) & (y < height // 5)] = 255
    slope[((x ^ y) & 3 == 0) & (y > height * 4 // 5)] = 0
    return slope.astype(np.uint8)


PICTURES = {"wide picture": (160, 224), "small odd picture": (97, 61)}  # height, width


def about(image: np.ndarray) -> list[dict[str, Any]]:
    """The messages that ask about a picture."""
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]}]
