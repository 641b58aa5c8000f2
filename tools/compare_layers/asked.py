"""What both sides are asked: token ids, their positions, and perhaps a picture among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ingot.engine.eyes import Visual
from ingot.prompt.media import Picture, expand
from ingot.spec import Config

Array = np.ndarray


@dataclass(frozen=True)
class Asked:
    """`ids` int32 [T], `position` int32 [3, T]; the features of `visuals` stand for some of the tokens."""

    ids: Array
    position: Array
    visuals: tuple[Visual, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """The parts of the model that take part."""
        return ("text", "vision") if self.visuals else ("text",)


def asked_for(prompt: Asked | Sequence[int]) -> Asked:
    """The prompt itself, or a text of the given ids."""
    if isinstance(prompt, Asked):
        return prompt
    ids = np.asarray(prompt, np.int32)
    return Asked(ids, np.tile(np.arange(len(ids), dtype=np.int32), (3, 1)))


def with_picture(ids: Sequence[int], picture: Picture, config: Config) -> Asked:
    """The picture in the middle of the ids, as the template would put it."""
    half = len(ids) // 2
    shown = [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]
    expanded = expand(np.asarray([*ids[:half], *shown, *ids[half:]]), [picture], config, lambda text: [])
    visual = Visual(expanded.rows[0], picture.grid, picture.patches, picture.digest)
    return Asked(expanded.ids, expanded.positions, (visual,))
