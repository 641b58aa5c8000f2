"""Which tokens of a forward pass belong together: the only thing about raggedness that the graph and the ops know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Keys a page of the attention cache holds, and the block in which attention reduces. One number on purpose: a block
# must not depend on how the prompt was cut. 64 keys of head dim 256 in fp32 are 64 KiB: a page of K fits the smallest
# L2 (taste).
PAGE = 64


@dataclass(frozen=True)
class Segments:
    """Integer arrays that describe the T tokens of one forward pass as S runs, each of one sequence.

    A run with start 0 begins from zero state, whatever its slot holds. Built once a pass on the host; no op asks an
    array for an item on a device.

    A run may try tokens that are not certain: the state takes the first `commit` of them, and what the others would do
    to it waits in a window. The sequence's next pass says how many were `accepted`, which its `start` counts too: the
    state takes these first. The three arrays are there together, or None where nothing is tried.
    """

    offset: np.ndarray  # int32 [S+1]  tokens of run s are offset[s]:offset[s+1]
    start: np.ndarray  # int32 [S]    tokens the sequence had before; 0 in training
    position: np.ndarray  # int32 [3,T]  M-RoPE positions (temporal, height, width)
    slot: np.ndarray  # int32 [S]    row of the state pools; -1: no state
    pages: np.ndarray  # int32 [S,P]  page table: key j of the sequence is row j % PAGE of page pages[s, j // PAGE]
    causal: bool = True  # False: every token of a run sees the whole run
    window: np.ndarray | None = None  # int32 [S]  row of the pools of drafts; -1: the run has none
    accepted: np.ndarray | None = None  # int32 [S]  drafts in the window that the state takes before the run
    commit: np.ndarray | None = None  # int32 [S]  tokens of the run that the state takes; the others become drafts

    @property
    def tokens(self) -> int:
        """T, the tokens of the pass."""
        return int(self.offset[-1])

    @staticmethod
    def of_lengths(lengths: Sequence[int], position: np.ndarray | None = None, causal: bool = True) -> Segments:
        """Stateless runs of the given lengths (training, scoring); text positions 0.. in each unless `position` [3,T]
        says."""
        offset = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        if position is None:
            position = np.tile(np.concatenate([np.arange(0), *map(np.arange, lengths)]), (3, 1)).astype(np.int32)
        runs = len(lengths)
        none = np.full(runs, -1, np.int32)
        return Segments(offset, np.zeros(runs, np.int32), position, none, np.zeros((runs, 0), np.int32), causal)

    @staticmethod
    def joined(parts: Sequence[Segments]) -> Segments:
        """One pass of the runs of several."""
        if len(parts) == 1:
            return parts[0]
        widest = max(part.pages.shape[1] for part in parts)
        window, accepted, commit = map(np.concatenate, zip(*(part._drafts() for part in parts), strict=True))
        some = any(part.window is not None for part in parts)
        return Segments(
            offset=np.cumsum([0, *(n for part in parts for n in np.diff(part.offset))]).astype(np.int32),
            start=np.concatenate([part.start for part in parts]),
            position=np.ascontiguousarray(np.concatenate([part.position for part in parts], axis=1)),
            slot=np.concatenate([part.slot for part in parts]),
            pages=np.concatenate([np.pad(part.pages, ((0, 0), (0, widest - part.pages.shape[1]))) for part in parts]),
            causal=parts[0].causal,
            window=window if some else None,
            accepted=accepted if some else None,
            commit=commit if some else None,
        )

    def _drafts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """window, accepted and commit, said in full."""
        if self.window is None or self.accepted is None or self.commit is None:
            return np.full_like(self.start, -1), np.zeros_like(self.start), np.diff(self.offset)
        return self.window, self.accepted, self.commit
