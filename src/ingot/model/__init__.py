"""The graph, written once over an op set: `build` makes the tree of weights, calling its root runs the model."""

from ingot.model.decoder import Targets
from ingot.model.pools import Pools, add_windows, new_pools, settle
from ingot.model.tree import build
from ingot.model.vision import Frames

__all__ = ["Frames", "Pools", "Targets", "add_windows", "build", "new_pools", "settle"]
