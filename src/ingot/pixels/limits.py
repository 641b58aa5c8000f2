"""What is decoded at most. Checked before anything is decoded."""

from __future__ import annotations

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
IMAGE_BYTES = 100 << 20  # of a file (taste: a camera's largest JPEG takes 50)
IMAGE_PIXELS = 128 << 20  # decoded (taste: eight times what the model can see; 384 MB as RGB)
ASPECT = 200  # one side to the other (of the reference: longer strips are refused)
IMAGE_SECONDS = 60  # taste: 128 Mi pixels take four

VIDEO_FORMATS = "MP4, MOV, MKV, WebM, AVI"
VIDEO_BYTES = 8 << 30  # of a file (taste: an hour of a phone's 4K)
VIDEO_BYTES_HELD = 512 << 20  # of one that is given as bytes or fetched, and is held in memory
FRAME_PIXELS = 32 << 20  # of a frame (8K has 33,177,600)
FRAMES = 1_000_000  # in a file, of which a few hundred are seen: nine hours at 30 a second
VIDEO_SECONDS = 600  # of decoding (taste)
# What people and their telephones record; ffmpeg has 500 decoders, most of them old and seldom tested.
VIDEO_CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "vp8", "libvpx", "vp9", "libvpx-vp9"),
    *("mpeg4", "mjpeg", "prores", "mpeg1video", "mpeg2video", "theora"),
)

MEMORY = 4 << 30  # address space of the child: 128 Mi pixels take 1.5 GB, a decoder's threads some more
OPEN_FILES = 32
