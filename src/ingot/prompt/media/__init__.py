"""Pictures and videos to what the vision tower reads: decoding, resizing, patches, placeholders, positions."""

from __future__ import annotations

from ingot.prompt.media.expand import Expanded, expand
from ingot.prompt.media.image import open_image
from ingot.prompt.media.picture import TEXT_ONLY, Picture, Preprocessor
from ingot.prompt.media.size import image_size, video_size
from ingot.prompt.media.source import AllowUrls
from ingot.prompt.media.video import glance, open_video

__all__ = [
    "TEXT_ONLY",
    "AllowUrls",
    "Expanded",
    "Picture",
    "Preprocessor",
    "expand",
    "glance",
    "image_size",
    "open_image",
    "open_video",
    "video_size",
]
