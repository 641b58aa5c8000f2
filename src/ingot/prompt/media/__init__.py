"""Pictures and videos to what the vision tower reads: decoding, resizing, patches, placeholders, positions."""

from __future__ import annotations

from ingot.prompt.media.expand import Expanded, expand
from ingot.prompt.media.image import open_image
from ingot.prompt.media.picture import Picture, Preprocessor
from ingot.prompt.media.size import image_size, video_size

__all__ = [
    "Expanded",
    "Picture",
    "Preprocessor",
    "expand",
    "image_size",
    "open_image",
    "video_size",
]
