"""What a model costs: parameters, bytes and operations, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.spec.config import FULL, Config
from ingot.spec.weights import weights_table

FORMAT_BYTES = {"f32": 4, "bf16": 2}
PANEL = 16  # the native layout pads a matrix to whole panels of 16 output rows
# What the interpreter's allocator keeps beside the arrays: 10 to 14 MB seen with 0.8B
# (tests/model/test_official_size.py).
ALLOCATOR_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes a running model takes: `weights` once, `state` a sequence, `kv_token` a token of each sequence, `workspace`
    once."""

    weights: int
    state: int
    kv_token: int
    workspace: int

    def total(self, tokens: int, sequences: int = 1) -> int:
        """Bytes for `sequences` sequences of `tokens` tokens each."""
        return self.weights + sequences * (self.state + tokens * self.kv_token) + self.workspace


def parameters(config: Config, component: str | None = None) -> int:
    """Elements of all weights, or of one component's ("text", "mtp", "vision")."""
    return sum(w.size for w in weights_table(config).values() if component in (None, w.component))


def memory(config: Config, fmt: str, step_tokens: int, components: tuple[str, ...] = ("text",)) -> Memory:
    """Bytes of the native engine with matrices in `fmt` ("f32" | "bf16"), fp32 state and KV, at most `step_tokens` a
    pass."""
    rows = [w for w in weights_table(config).values() if w.component in components]
    weights = sum(_stored_bytes(w.shape, w.role, fmt) for w in rows)
    text = config.text
    linear = sum(kind != FULL for kind in text.layer_types)
    delta = text.linear_num_value_heads * text.linear_key_head_dim * -(-text.linear_value_head_dim // PANEL) * PANEL
    tail = (text.linear_conv_kernel_dim - 1) * text.conv_dim
    kv = 2 * text.num_key_value_heads * text.head_dim
    full = len(text.layer_types) - linear + ("mtp" in components)
    workspace = 4 * _workspace(config, step_tokens) + ALLOCATOR_BYTES
    return Memory(weights, 4 * linear * (delta + tail), 4 * full * kv, workspace)


def _stored_bytes(shape: tuple[int, ...], role: str, fmt: str) -> int:
    count = 1
    for n in shape:
        count *= n
    if role not in ("matrix", "embedding"):
        return 4 * count
    return count // shape[0] * (-(-shape[0] // PANEL) * PANEL) * FORMAT_BYTES[fmt]


def _workspace(config: Config, tokens: int) -> int:
    """Floats of the activations alive at once: the widest layer's arrays, and one row of logits for the sampler."""
    text = config.text
    values = text.linear_num_value_heads * text.linear_value_head_dim
    delta = 3 * text.conv_dim + 3 * values  # u, conv(u), q|k|v; z, o, gated
    attention = 6 * text.num_attention_heads * text.head_dim + 4 * text.num_key_value_heads * text.head_dim
    swiglu = 3 * text.intermediate_size
    return tokens * (4 * text.hidden_size + max(delta, attention, swiglu)) + 4 * text.vocab_size
