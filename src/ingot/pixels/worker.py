"""The child process that decodes: takes jobs on its stdin, gives pixels on its stdout, may do little else.

A message is two lengths (of its head and of its body), the head in JSON, the body as it is. A job's head is {"do":
"image" | "probe" | "frames", "name", ...} and its body the file, unless the head has its "path". Answers are messages
too: {"error": sentence} ends a job, as {"end": true} does.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from ingot.pixels import limits

LENGTHS = struct.Struct("<IQ")
ENV = {"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}  # threads would take address space


def main() -> None:
    """Serve jobs until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is our parent's, who then ends us
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    _import_decoders()
    restrict()
    send(answers, {"ready": True})
    while (lengths := jobs.read(LENGTHS.size)) != b"":
        head, body = LENGTHS.unpack(lengths)
        job = json.loads(jobs.read(head))
        allow_seconds(job.pop("seconds"))
        try:
            for message, pixels in run(job, jobs.read(body)):
                send(answers, message, pixels)
            send(answers, {"end": True})
        except ValueError as error:
            send(answers, {"error": str(error)})
        except MemoryError:
            send(answers, {"error": f"{job['name']} takes more than {limits.MEMORY >> 30} GB of memory to decode"})


def run(job: dict[str, Any], body: bytes) -> Iterator[tuple[dict[str, Any], Any]]:
    """The answers to a job: (head, body) each, the body bytes or an array or None."""
    if job["do"] == "image":
        from ingot.pixels.image import decoded

        image = decoded(body, job["name"])
        yield {"height": image.height, "width": image.width}, image.tobytes()
        return
    from ingot.pixels import video

    with open(job["path"], "rb") if "path" in job else io.BytesIO(body) as file:
        if job["do"] == "probe":
            yield video.probe(file, job["name"]), None
        else:
            yield from video.frames(file, job["name"], job["fps"], job["fewest"], job["most"])


def send(stream: BinaryIO, head: dict[str, Any], body: Any = None) -> None:
    """One message."""
    text = json.dumps(head).encode()
    view = memoryview(b"" if body is None else _contiguous(body)).cast("B")
    stream.write(LENGTHS.pack(len(text), len(view)) + text)
    stream.write(view)
    stream.flush()


def _contiguous(body: Any) -> Any:
    return body if isinstance(body, bytes) else body.copy(order="C")


def _import_decoders() -> None:
    """Before files are few: the five that Pillow may use, named, or it would look at fifty."""
    from PIL import (  # noqa: F401
        BmpImagePlugin,
        GifImagePlugin,
        Image,
        ImageOps,
        JpegImagePlugin,
        PngImagePlugin,
        WebPImagePlugin,
    )


def restrict() -> None:
    """Bound the memory, open files and core of this process for good; it writes no file. What a system does not know
    or refuses is left out."""
    import resource

    bounds = {
        resource.RLIMIT_AS: limits.MEMORY,
        resource.RLIMIT_NOFILE: limits.OPEN_FILES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in bounds.items():
        try:
            resource.setrlimit(which, (most, most))
        except (ValueError, OSError):
            continue


def allow_seconds(seconds: int) -> None:
    """End this process when the next job takes more processor time than this, though our parent be gone."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + seconds, most))


if __name__ == "__main__":
    main()
