"""What the bits of a state depend on beside tokens and pictures, in 32 bytes: states that are kept on disk are found by
it, and those of another model, format or version are not."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from dataclasses import asdict
from typing import Any

import numpy as np

from ingot.ops import PAGE
from ingot.spec.numerics import NUMERICS
from ingot.store import Checkpoint


def fingerprint(checkpoint: Checkpoint, ops: Any, weights: str, kv: str, calibration: str = "") -> bytes | None:
    """32 bytes that differ where states may differ; None for torch, whose bits depend on more than can be told.

    `weights` and `kv` are formats, `calibration` the digest of the prompts that q4 was rounded for. Pictures are known
    by what the tower sees of them (`Picture.digest`), so the tower's weights are part of it and the resizing is not.
    """
    numbers = _numbers(ops)
    if numbers is None:
        return None
    parts = {
        "numerics": [NUMERICS, PAGE, sys.byteorder, *numbers],
        "config": asdict(checkpoint.config),  # with YaRN, where the context is longer by it
        "weights": [weights, calibration, checkpoint.identity()],
        "vision": checkpoint.identity("vision") if checkpoint.has_vision else None,
        "kv": kv,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def _numbers(ops: Any) -> list[object] | None:
    """What the bits of an op set's results depend on. The native one gives the same on every machine."""
    if hasattr(ops, "PACK_VERSION"):
        return ["native", ops.PACK_VERSION]
    if getattr(ops, "__name__", "") == "ingot.ops.reference":  # numpy chooses its kernels by the machine
        return ["reference", np.__version__, platform.machine(), platform.processor(), platform.node()]
    return None
