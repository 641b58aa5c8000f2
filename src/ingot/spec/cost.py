"""What a model costs: parameters, bytes and operations, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.spec.config import FULL, Config
from ingot.spec.formats import MATRIX_ROLES, PANEL, held_as, packed_bytes
from ingot.spec.weights import Weight, weights_table

# What the interpreter's allocator keeps beside the arrays: 10 to 14 MB seen with 0.8B
# (tests/model/test_official_size.py).
ALLOCATOR_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes a running model takes: `weights` once, `state` a sequence, `kv_token` a token of each sequence, `workspace`
    once. `mapped` more are the embedding's rows in their file: only those in use are in memory, and can leave it."""

    weights: int
    state: int
    kv_token: int
    workspace: int
    mapped: int = 0

    def total(self, tokens: int, sequences: int = 1) -> int:
        """Bytes for `sequences` sequences of `tokens` tokens each."""
        return self.weights + sequences * (self.state + tokens * self.kv_token) + self.workspace


def parameters(config: Config, component: str | None = None) -> int:
    """Elements of all weights, or of one component's ("text", "mtp", "vision")."""
    return sum(w.size for w in weights_table(config).values() if component in (None, w.component))


def memory(config: Config, fmt: str, step_tokens: int, components: tuple[str, ...] = ("text",)) -> Memory:
    """Bytes of the native engine with matrices in `fmt`, fp32 state and KV, at most `step_tokens` a pass."""
    rows = [w for w in weights_table(config).values() if w.component in components]
    tied = config.tie_word_embeddings
    weights = sum(_packed(w, fmt) for w in rows if w.role != "embedding" or tied)
    mapped = sum(2 * w.size for w in rows if w.role == "embedding")
    text = config.text
    linear = sum(kind != FULL for kind in text.layer_types)
    delta = text.linear_num_value_heads * text.linear_key_head_dim * -(-text.linear_value_head_dim // PANEL) * PANEL
    tail = (text.linear_conv_kernel_dim - 1) * text.conv_dim
    kv = 2 * text.num_key_value_heads * text.head_dim
    full = len(text.layer_types) - linear + ("mtp" in components)
    workspace = 4 * _workspace(config, step_tokens) + ALLOCATOR_BYTES
    return Memory(weights, 4 * linear * (delta + tail), 4 * full * kv, workspace, mapped)


def _packed(weight: Weight, fmt: str) -> int:
    if weight.role in MATRIX_ROLES:
        return packed_bytes(weight.shape, held_as(weight.role, fmt))
    return 4 * weight.size


def _workspace(config: Config, tokens: int) -> int:
    """Floats of the activations alive at once: the widest layer's arrays, and one row of logits for the sampler."""
    text = config.text
    values = text.linear_num_value_heads * text.linear_value_head_dim
    delta = 3 * text.conv_dim + 3 * values  # u, conv(u), q|k|v; z, o, gated
    attention = 6 * text.num_attention_heads * text.head_dim + 4 * text.num_key_value_heads * text.head_dim
    swiglu = 3 * text.intermediate_size
    return tokens * (4 * text.hidden_size + max(delta, attention, swiglu)) + 4 * text.vocab_size
