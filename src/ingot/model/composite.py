"""Small things every part of the graph uses: a norm leaf applied, and the seam at which an op set may fuse a part."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


def norm(ops: Any, leaf: Any, x: Any) -> Any:
    """RMSNorm by a norm leaf; the leaf's role, not its name, says whether it multiplies by w or by 1 + w."""
    return ops.rms_norm(x, leaf.weight, leaf.config.text.rms_norm_eps, leaf.one_plus)


def composite(body: Callable[..., Any]) -> Callable[..., Any]:
    """`body(ops, w, ...)`, unless the op set brings a fused `ops.<name of body>(w, ...)` of its own.

    A fused version must give what the body gives, or NotImplemented, and the body runs; the tests hold every override
    against its default.
    """

    @wraps(body)
    def run(ops: Any, w: Any, *args: Any) -> Any:
        fused = getattr(ops, body.__name__, None)
        y = NotImplemented if fused is None else fused(w, *args)
        return body(ops, w, *args) if y is NotImplemented else y

    return run


class Unfused:
    """An op set that runs every composite by its body, so that each small operation passes here."""

    delta_layer = full_layer = delta_mixer = attention_mixer = swiglu = None

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)
