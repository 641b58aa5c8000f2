"""The formats in which matrices are held: bytes of each, and which weights take which."""

from __future__ import annotations

MATRIX_ROLES = ("matrix", "gate", "embedding")
PANEL = 16  # a matrix is padded to whole panels of 16 output rows

# Format -> inputs that a row is padded to, and the bytes that so many inputs of one row take. q8 and q4 have a bf16
# scale for every 32 inputs: 8.5 and 4.5 bits a weight.
FORMATS = {"f32": (1, 4), "bf16": (32, 64), "q8": (64, 68), "q4": (64, 36)}
QUANTISED = ("q8", "q4")


def held_as(role: str, fmt: str, component: str = "text") -> str:
    """The format of a matrix of `role` in a model that is held as `fmt`.

    The delta rule's gates are never quantised: an error in a decay is raised to the power of the tokens that follow,
    and gates are 1 % of the weights. The vision tower is never held in 4 bits: it runs once a picture.
    """
    if component == "vision" and fmt == "q4":
        return "q8"
    return "f32" if role == "gate" and fmt in QUANTISED else fmt


def packed_bytes(shape: tuple[int, ...], fmt: str) -> int:
    """Bytes of a packed matrix [O, I]."""
    outputs, inputs = shape
    unit, size = FORMATS[fmt]
    return -(-outputs // PANEL) * PANEL * -(-inputs // unit) * size
