"""Examples to packed batches: runs end to end, each beginning from zero state, nothing padded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ingot.model.decoder import Targets
from ingot.ops.segments import Segments


@dataclass(frozen=True)
class Example:
    """Token ids and, for each, how much its prediction counts: 0 for what the model is told, 1 for what it should
    say.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    @staticmethod
    def of_parts(parts: Iterable[tuple[Sequence[int], float]]) -> Example:
        """From runs of ids that share a weight."""
        pairs = [(token, weight) for ids, weight in parts for token in ids]
        return Example(tuple(token for token, _ in pairs), tuple(weight for _, weight in pairs))


@dataclass(frozen=True)
class Pack:
    """What one forward pass takes."""

    ids: torch.Tensor  # long [T]
    segments: Segments
    targets: Targets


def pack(examples: Sequence[Example], mtp: bool) -> Pack:
    """The examples side by side. Each loses its last token, which predicts nothing.

    With `mtp`, the targets also hold the token after next; the last place of each run has none and is silent.
    """
    ids: list[int] = []
    following: list[int] = []
    weight: list[float] = []
    after: list[int] = []
    after_weight: list[float] = []
    for example in examples:
        ids += example.ids[:-1]
        following += example.ids[1:]
        weight += example.weights[1:]
        after += (*example.ids[2:], 0)
        after_weight += (*example.weights[2:], 0.0)
    targets = Targets(torch.tensor(following), torch.tensor(weight))
    if mtp:
        targets = Targets(targets.next_T, targets.weight_T, torch.tensor(after), torch.tensor(after_weight))
    return Pack(torch.tensor(ids), Segments.of_lengths([len(e.ids) - 1 for e in examples]), targets)


def cut(examples: Sequence[Example], tokens: int) -> list[list[Example]]:
    """The examples, sorted by length, in groups of about `tokens` tokens: neighbours of like length waste no chunk of
    the delta
    rule, and a group's activations stay in the cache."""
    groups: list[list[Example]] = [[]]
    size = 0
    for example in sorted(examples, key=lambda e: (len(e.ids), e.ids)):
        if size >= tokens:
            groups.append([])
            size = 0
        groups[-1].append(example)
        size += len(example.ids)
    return groups
