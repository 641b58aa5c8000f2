"""The version of the numbers that Ingot computes."""

from __future__ import annotations

# Raise it with any change after which the same weights, tokens and formats give other bits of logits, keys, values or
# recurrent state, or after which these lie otherwise in their pools, or tokens have other keys (`engine/keys.py`):
# states that were kept on disk are then computed anew. `tests/model/test_numerics.py` notices such a change.
NUMERICS = 1
