"""What a pass must at least move and compute, whatever the engine: the bound beside which a speed is shown."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.spec.config import FULL, Config
from ingot.spec.cost import Memory
from ingot.spec.formats import MATRIX_ROLES
from ingot.spec.weights import weights_table


@dataclass(frozen=True)
class Limits:
    """What a machine does in a second: bytes read, operations of matrices in the weights' format, operations in
    fp32. A multiplication and an addition are two operations."""

    bytes_s: float
    matrix_s: float
    vector_s: float


@dataclass(frozen=True)
class Work:
    """What a pass cannot do without: bytes moved, operations of its matrices, fp32 operations of the delta rule."""

    bytes: int
    matrix: int
    vector: int

    def seconds(self, limits: Limits) -> float:
        """The least time: reading may hide all arithmetic, or all arithmetic the reading."""
        return max(self.bytes / limits.bytes_s, self.matrix / limits.matrix_s + self.vector / limits.vector_s)


def step_work(config: Config, memory: Memory, rows: int, depth: int) -> Work:
    """One pass of `rows` tokens of one sequence behind `depth` others, with the logits of all: every weight once, the
    recurrent state in and out, the keys and values before."""
    state = 2 * memory.state + (depth + rows) * memory.kv_token
    return Work(memory.weights + state, _matrix(config, rows, rows, depth), _delta(config, rows))


def prefill_work(config: Config, memory: Memory, tokens: int, pass_tokens: int) -> Work:
    """A prompt of `tokens` tokens from nothing, `pass_tokens` a pass, with the logits of the last: every pass reads the
    weights and sweeps the state; the keys that a pass reads are few against that and left out."""
    passes = -(-tokens // pass_tokens)
    moved = passes * (memory.weights + 2 * memory.state) + tokens * memory.kv_token
    return Work(moved, _matrix(config, tokens, 1, 0), _delta(config, tokens))


def _matrix(config: Config, tokens: int, logits: int, depth: int) -> int:
    """Operations of the matrices, and of queries with keys and of weights with values."""
    text = config.text
    body = sum(w.size for w in weights_table(config).values() if _in_body(w.role, w.component, w.name))
    keys = tokens * depth + tokens * (tokens + 1) // 2
    attention = sum(kind == FULL for kind in text.layer_types) * 2 * text.num_attention_heads * text.head_dim * keys
    return 2 * (tokens * body + logits * text.vocab_size * text.hidden_size + attention)


def _in_body(role: str, component: str, name: str) -> bool:
    return component == "text" and role in MATRIX_ROLES and role != "embedding" and name != "lm_head.weight"


def _delta(config: Config, tokens: int) -> int:
    """Three multiply-adds an element of the state and token: what it predicts, its correction, its read-out."""
    text = config.text
    linear = sum(kind != FULL for kind in text.layer_types)
    return 6 * tokens * linear * text.linear_num_value_heads * text.linear_key_head_dim * text.linear_value_head_dim
