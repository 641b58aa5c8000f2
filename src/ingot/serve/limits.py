"""The bounds on what a client may send or keep waiting, in one table.

What has its own bound elsewhere is not repeated here: sampling values (`ingot.engine.SamplingParams`), stop strings
(`ingot.prompt.stop`), pixels (`ingot.prompt.media`).
"""

from __future__ import annotations

# name -> (most, unit, why)
LIMITS: dict[str, tuple[float, str, str]] = {
    "body": (32 << 20, "bytes of a request", "a dozen photographs as base64; what vLLM takes"),
    "header": (16 << 10, "bytes of a request's head", "a key and a few cookies are 4,000"),
    "sockets": (512, "connections, idle ones too", "half of the open files that systems allow"),
    "head time": (
        30,
        "seconds until a connection brings (another) request's head",
        "one who drips bytes holds a place",
    ),
    "body time": (60, "seconds for a request to arrive", "32 MiB at 5 Mbit/s; one who drips bytes holds a place"),
    "depth": (64, "levels of nested JSON", "a deep schema of a tool has 20"),
    "values": (1 << 20, "values in a request's JSON", "a prompt of 262,144 ids, four times; each takes 60 bytes"),
    "connections": (256, "requests at a time, of any kind", "a third of the open files that systems allow"),
    "messages": (4096, "messages", "an agent's day"),
    "tools": (128, "tools", "OpenAI's"),
    "images": (16, "pictures of a request", "each may take 400 MB for a moment while it is decoded"),
    "pixels": (
        1 << 28,
        "pixels of the pictures of all requests that wait or run",
        "3 bytes each; a dozen of the largest",
    ),
    "frames": (256, "frames of a video", "two minutes at 2 a second"),
    "n": (8, "answers to a prompt", "each keeps a state; --parallel may allow fewer"),
    "prompts": (64, "prompts of a completion", "they wait in turn and share one connection"),
    "priority": (100, "steps of priority up or down", "each counts as 10 seconds of waiting"),
    "stop": (1024, "characters of a stop string", "each new character is held against all of them"),
    "ids": (1024, "token ids of logit_bias or stop_token_ids", "each step looks at all of them"),
    "breakers": (64, "texts of dry_sequence_breakers", "the usual are four; each token is searched for all of them"),
    "density": (
        16,
        "characters of a prompt's texts for each token of `--context`",
        "a token is 3 to 6; each takes 300 bytes while it is encoded",
    ),
    "text": (1024, "characters of a name or label", "they are only carried along"),
    "send time": (60, "seconds until a client reads what it was sent", "one who has stopped reading is taken as gone"),
    "ping": (15, "seconds between signs of life in a stream", "proxies close what is silent for 30 or 60"),
    "step": (120, "seconds of one pass, then it is stuck (`--watchdog`)", "a pass of 9B on two cores takes 6"),
}


def most(name: str) -> int:
    """The bound called `name`."""
    return int(LIMITS[name][0])
