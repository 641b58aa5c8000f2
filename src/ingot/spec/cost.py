"""What a model costs: parameters, bytes and operations, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.spec.config import FULL, Config
from ingot.spec.formats import MATRIX_ROLES, PANEL, held_as, packed_bytes
from ingot.spec.weights import Weight, weights_table

KV_GROUP = 32  # a key or value is stored in whole groups of elements, but for f32
KV_GROUP_BYTES = {"bf16": 64, "q8": 34}
# What the interpreter's allocator keeps beside the arrays: 10 to 14 MB seen with 0.8B
# (tests/model/test_official_size.py).
ALLOCATOR_BYTES = 16 * 2**20
# Patches that go together through what each passes alone: the widest array of the 0.8B tower is then 6 MB, where 65,536
# patches at once (16 megapixels) would take 800, and matrices are as fast (256 to 4,096 the same within noise).
TOWER_ROWS = 512
HUGE_PAGE = 2 * 2**20  # Linux hands out large arrays in pieces of this size: each pool of keys or values ends in one


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


def memory(
    config: Config, fmt: str, step_tokens: int, components: tuple[str, ...] = ("text",), kv: str = "f32"
) -> Memory:
    """Bytes of the native engine with matrices in `fmt`, fp32 state, keys and values in `kv` ("f32" | "bf16" | "q8"),
    at most `step_tokens` a pass."""
    table = [w for w in weights_table(config).values() if w.component in components]
    tied = config.tie_word_embeddings
    tables = [w for w in table if w.role == "embedding" and w.component != "vision"]
    weights = sum(_packed(w, fmt) for w in table if w not in tables or tied)
    mapped = sum(2 * w.size for w in tables)
    mtp = "mtp" in components
    arrays = 2 * (sum(kind == FULL for kind in config.text.layer_types) + mtp)
    workspace = 4 * _workspace(config, step_tokens) + ALLOCATOR_BYTES + arrays * HUGE_PAGE
    return Memory(weights, state_bytes(config), kv_bytes(config, kv, mtp), workspace, mapped)


def state_bytes(config: Config) -> int:
    """Bytes of one sequence's recurrent state in all layers: fp32 delta states and conv tails."""
    text = config.text
    linear = sum(kind != FULL for kind in text.layer_types)
    delta = text.linear_num_value_heads * text.linear_key_head_dim * -(-text.linear_value_head_dim // PANEL) * PANEL
    return 4 * linear * (delta + (text.linear_conv_kernel_dim - 1) * text.conv_dim)


def window_bytes(config: Config, tokens: int) -> int:
    """Bytes of `tokens` drafts of one sequence: what they would do to its state (`ops.delta_drafts`)."""
    text = config.text
    linear = sum(kind != FULL for kind in text.layer_types)
    keys, heads = text.linear_num_key_heads * text.linear_key_head_dim, text.linear_num_value_heads
    return 4 * linear * tokens * (text.conv_dim + keys + heads * (text.linear_value_head_dim + 2))


@dataclass(frozen=True)
class Eyes:
    """Bytes that seeing takes beside `Memory`: the tower's `weights` from the first picture on, and its `workspace`
    while it looks at a picture of `patches` patches, which becomes `tokens` tokens."""

    weights: int
    workspace: int
    patches: int
    tokens: int


def eyes(config: Config, fmt: str, height: int, width: int) -> Eyes | None:
    """What a picture of `height` x `width` pixels, seen in full, takes in a model held as `fmt`; None: it has no
    tower."""
    vision = config.vision
    if vision is None:
        return None
    side = vision.patch_size * vision.spatial_merge_size
    tokens = max(1, round(height / side)) * max(1, round(width / side))
    patches = tokens * vision.spatial_merge_size**2
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    # alive at once in attention: the stream, its norm, q, k and v, those as they are read, what it gives; in the MLP
    # the stream, its norm and the sum. Beside them the rows that go together: q|k|v, or the two sides of gelu
    hidden, rows = vision.hidden_size, min(patches, TOWER_ROWS)
    attention = 9 * hidden * patches + rows * 7 * hidden
    mlp = 4 * hidden * patches + rows * (hidden + 2 * vision.intermediate_size)
    floats = max(attention, mlp) + rows * pixels
    table = [w for w in weights_table(config).values() if w.component == "vision"]
    return Eyes(sum(_packed(w, fmt) for w in table), 4 * floats, patches, tokens)


def kv_bytes(config: Config, kv: str, mtp: bool = False) -> int:
    """Bytes of one token's keys and values in all layers, in the format `kv`."""
    text = config.text
    row = 4 * text.head_dim if kv == "f32" else -(-text.head_dim // KV_GROUP) * KV_GROUP_BYTES[kv]
    return (sum(kind == FULL for kind in text.layer_types) + mtp) * 2 * text.num_key_value_heads * row


def _packed(weight: Weight, fmt: str) -> int:
    if weight.role in MATRIX_ROLES and (weight.role, weight.component) != ("embedding", "vision"):
        return packed_bytes(weight.matrix_shape, held_as(weight.role, fmt, weight.component))
    return 4 * weight.size


def _workspace(config: Config, tokens: int) -> int:
    """Floats of the activations alive at once: the widest layer's arrays, the input of its widest matrix
    rounded, and one row of logits for the sampler."""
    text = config.text
    values = text.linear_num_value_heads * text.linear_value_head_dim
    delta = 3 * text.conv_dim + 3 * values  # u, conv(u), q|k|v; z, o, gated
    attention = 6 * text.num_attention_heads * text.head_dim + 4 * text.num_key_value_heads * text.head_dim
    swiglu = 3 * text.intermediate_size
    rounded = max(text.hidden_size, text.intermediate_size, values, text.num_attention_heads * text.head_dim)
    return tokens * (4 * text.hidden_size + max(delta, attention, swiglu) + rounded) + 4 * text.vocab_size
