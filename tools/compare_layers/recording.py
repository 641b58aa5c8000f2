"""Ingot's side: an op set that computes by another one and writes down every result under its tensor name.

The graph gets its op set as an argument and cannot tell. Names are Hugging Face's module paths; an operation that is no
module there adds its own word to the path of the module it belongs to (`model.layers.0.linear_attn.delta_rule`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np

from ingot.engine.eyes import Eyes
from ingot.engine.sequence import StatePool
from ingot.model import build
from ingot.model.composite import Unfused
from ingot.ops import reference
from ingot.store import Checkpoint
from tools.compare_layers.asked import Asked, asked_for

Array = np.ndarray

# op -> how many leading arguments are activations [T, ...]; the rest are weights, constants, segments and state
ACTIVATIONS = {
    "linears": 1, "rms_norm": 1, "gated_rms_norm": 2, "silu_mul": 2, "sigmoid_mul": 2, "causal_conv1d": 1, "l2_norm": 1,
    "delta_gates": 2, "gated_delta_rule": 5, "attention": 3, "rope": 2, "rotary": 0, "embed": 0,
    "layer_norm": 1, "gelu": 1, "resample_grid": 0,
}  # fmt: skip
# op -> the words its results add to the path of the running node; l2_norm gives one a call
WORDS = {
    "causal_conv1d": ("conv1d",), "delta_gates": ("log_decay", "beta"), "gated_delta_rule": ("delta_rule",),
    "rope": ("q_rope", "k_rope"), "attention": ("attention",), "sigmoid_mul": ("gated",), "silu_mul": ("silu_mul",),
    "l2_norm": ("q_l2norm", "k_l2norm"), "gelu": ("act_fn",),
}  # fmt: skip
VISUAL = "model.visual."  # the tower's names begin with it
NOT_WEIGHTS = ("forward", "config", "one_plus")  # attributes of a node


@dataclass
class Call:
    """The operation that made a tensor: its activations [T, ...] of all passes, other arguments, which result it is."""

    op: str
    inputs: tuple[Array, ...]
    fixed: tuple[Any, ...]
    result: int


@dataclass
class Recording:
    """Every intermediate [T, ...] of one run by name, in execution order, and what it takes to compute it once more."""

    values: dict[str, Array]
    calls: dict[str, Call] = field(default_factory=dict)
    passes: tuple[int, ...] = ()  # first token of each pass
    checkpoint: Checkpoint | None = None


def run_ingot(checkpoint: Checkpoint, ops: Any, prompt: Asked | Sequence[int], chunk: int | None = None) -> Recording:
    """What Ingot's graph computes for a prompt by the op set `ops`, `chunk` tokens a pass (None: all), weights in f32;
    for a picture in it the tower's tensors first."""
    asked = asked_for(prompt)
    recorder = Recorder(ops, checkpoint.config.prefix)
    root = build(checkpoint.config, recorder, lambda weight: checkpoint.read(weight.name), "f32", asked.components)
    recorder.names = dict(_named(root))
    eyes = Eyes(recorder, checkpoint.config, lambda pause: root.model.visual)
    for visual in asked.visuals:
        eyes.features(visual)
    states, size = StatePool(recorder, checkpoint.config), chunk or len(asked.ids)
    sequence, passes = states.open(), tuple(range(0, len(asked.ids), size))
    for begin in passes:
        part, position = asked.ids[begin : begin + size], asked.position[:, begin : begin + size]
        features = eyes.of_slice(asked.visuals, begin, begin + len(part))
        root(recorder, part, states.segments(sequence, position, len(part)), states.pools, features=features)
        sequence.length += len(part)
    return Recording(recorder.values(), recorder.calls(), passes, checkpoint)


class Recorder(Unfused):
    """The op set `ops` with every result written down; `names` maps the id of nodes, leaves and vectors to its path."""

    def __init__(self, ops: Any, prefix: str) -> None:
        super().__init__(ops)
        self._prefix = prefix
        self.names: dict[int, str] = {}
        self._parts: dict[str, list[Array]] = {}
        self._calls: dict[str, list[Call]] = {}
        self._running: list[tuple[str, Counter[str]]] = []

    def __getattr__(self, name: str) -> Any:
        inner = super().__getattr__(name)
        return self._recorded(name, inner) if name in ACTIVATIONS else inner

    def Node(self, graph: Callable[..., Any] | None, config: Any) -> Any:  # noqa: N802 - the op set's name for it
        """A node of the wrapped op set whose graph function tells when it runs."""
        return self._ops.Node(None if graph is None else self._inside(graph), config)

    def values(self) -> dict[str, Array]:
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}

    def calls(self) -> dict[str, Call]:
        return {name: _joined(parts) for name, parts in self._calls.items()}

    def _inside(self, graph: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(graph)
        def run(ops: Any, w: Any, *args: Any, **kwargs: Any) -> Any:
            path = self.names[id(w)]
            self._running.append((path, Counter()))
            y = graph(ops, w, *args, **kwargs)
            self._running.pop()
            if path:  # the root's result is the head's
                self._parts.setdefault(path, []).append(self._host(y))
            return y

        return run

    def _recorded(self, op: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            y = inner(*args, **kwargs)
            count = ACTIVATIONS[op]
            inputs = tuple(self._host(x) for x in args[:count])
            results = y if isinstance(y, tuple) else (y,)
            for i, (name, value) in enumerate(zip(self._result_names(op, args), results, strict=True)):
                fixed = (args[1 + i],) if op == "linears" else args[count:]
                self._parts.setdefault(name, []).append(self._host(value))
                if op != "embed":
                    self._calls.setdefault(name, []).append(Call(op, inputs, tuple(map(self._fixed, fixed)), i))
            return y

        return run

    def _result_names(self, op: str, args: tuple[Any, ...]) -> list[str]:
        path, calls = self._running[-1]
        if op == "linears":  # a tied head is the table's leaf by another name
            return ["lm_head"] if path == "" else [self.names[id(leaf)] for leaf in args[1:]]
        if op == "embed":
            return [self.names[id(args[0])]]
        if op in ("rms_norm", "gated_rms_norm", "layer_norm", "resample_grid"):
            return [self.names[id(args[ACTIVATIONS[op]])].removesuffix(".weight")]
        if op == "rotary":
            place = f"{VISUAL}rotary_pos_emb" if f"{path}." == VISUAL else f"{self._prefix}rotary_emb"
            return [f"{place}.cos", f"{place}.sin"]
        words = WORDS[op]
        if op == "l2_norm":
            words = (words[calls[op] % len(words)],)
            calls[op] += 1
        return [f"{path}.{word}" for word in words]

    def _host(self, x: Any) -> Array:
        array: Array = x if isinstance(x, np.ndarray) else self._ops.host(x)
        return array

    def _fixed(self, x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(self._fixed, x))
        return self._host(x) if hasattr(x, "detach") else x


def _joined(parts: list[Call]) -> Call:
    """One call over the tokens of all passes."""
    first = parts[0]
    inputs = tuple(np.concatenate(arrays) for arrays in zip(*(call.inputs for call in parts), strict=True))
    fixed = first.fixed
    if first.op == "rope":  # the angles are of each pass, too
        fixed = (tuple(np.concatenate(a) for a in zip(*(call.fixed[0] for call in parts), strict=True)),)
    if first.op == "rotary":  # and the positions
        fixed = (np.concatenate([call.fixed[0] for call in parts], axis=1), *fixed[1:])
    return Call(first.op, inputs, fixed, first.result)


def _named(place: Any, path: str = "") -> Iterator[tuple[int, str]]:
    yield id(place), path
    for name, child in _children(place):
        yield from _named(child, f"{path}.{name}" if path else name)


def _children(place: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(place, list):
        yield from ((str(i), child) for i, child in enumerate(place))
    elif isinstance(place, reference.Node):
        yield from ((name, child) for name, child in vars(place).items() if name not in NOT_WEIGHTS)
    elif hasattr(place, "named_children"):  # torch
        yield from place.named_children()
        yield from place.named_parameters(recurse=False)


def open_op_set(backend: str) -> Any:
    """The op set "native", "torch" or "reference"; ValueError when this machine does not have it."""
    try:
        if backend == "native":
            from ingot.ops.native import OpSet

            return OpSet()
        if backend == "torch":
            from ingot.ops import autograd

            return autograd.OpSet()
    except ImportError as error:
        hint = "pip install 'ingot-lm[torch]'" if backend == "torch" else "ingot doctor tells why"
        raise ValueError(f"backend is {backend!r}, which cannot be loaded here: {error}\nhint: {hint}") from None
    if backend != "reference":
        raise ValueError(f"backend is {backend!r}; native, torch or reference is allowed")
    return reference
