"""How many users of how many tokens fit: decided once, at the start, so that nobody is swapped out later."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingot.answering import Job
from ingot.engine import STEP_TOKENS, Engine
from ingot.engine.sequence import MARGIN
from ingot.serve.errors import bad
from ingot.spec.cost import kv_bytes, memory

PARALLEL = 4  # answers at a time unless told (taste: four people and a laptop)
MOST_CACHE = 4 * 2**30  # of snapshots unless told: two hundred of 0.8B, 80 of 9B (taste)
LEAST_CONTEXT = 2048  # fewer tokens a user make room for fewer users instead (taste: a question, tools, an answer)


@dataclass(frozen=True)
class Plan:
    """`parallel` answers run at a time, each of `context` tokens with its prompt; `bytes` is what they take with
    `snapshots` of the prefix cache, `room` what there was (None: nobody knows)."""

    parallel: int
    context: int
    bytes: int
    room: int | None
    snapshots: int = 0

    def __str__(self) -> str:
        free = "" if self.room is None else f" of {self.room / 2**20:,.0f} MiB free"
        kept = f" with {self.snapshots:,} snapshots" if self.snapshots else ""
        return f"{self.parallel} x {self.context:,} tokens fit{kept}: {self.bytes / 2**20:,.0f} MiB{free}"

    def fitted(self, job: Job, max_tokens: int | None) -> Job:
        """The job with its answer as long as was said, or at most as long as there is room for; ApiError 400 where
        there is none."""
        request = job.request
        tokens, where = len(request.ids), f"{job.where}: " if job.where else ""
        if tokens >= self.context:
            message = f"{where}the prompt has {tokens:,} tokens; a prompt and its answer may have {self.context:,} here"
            raise bad(message, None, "context_length_exceeded")
        if max_tokens is not None and tokens + max_tokens > self.context:
            message = (
                f"{where}max_tokens is {max_tokens:,} after a prompt of {tokens:,} tokens; together they may have "
                f"{self.context:,} here"
            )
            raise bad(message, "max_tokens", "context_length_exceeded")
        most = self.context - tokens
        return replace(job, request=replace(request, max_tokens=min(request.max_tokens, most)))


def plan(
    engine: Engine, parallel: int | None, context: int | None, available: int | None, cache: int | None = None
) -> Plan:
    """The users and tokens that were asked for, or as many as fit, beside `cache` bytes of snapshots for the prefix
    cache (None: an eighth of the room, `MOST_CACHE` at most; 0: no cache); ValueError where they do not fit.

    Keys and values of the prefix cache lie where those of running answers will, and give way to them.
    """
    longest = engine.context
    if context is not None and not 1 < context <= longest:
        raise ValueError(f"--context is {context}; this model's context is 2 to {longest:,} tokens")
    state, token = engine.states.state_bytes, kv_bytes(engine.config, engine.states.kv)
    own = state + engine.states.window_bytes  # of a user
    room = None if available is None else max(0, available - MARGIN - _workspace(engine))
    kept = _snapshots(state, room, cache)
    if room is None:
        users, tokens = parallel or PARALLEL, context or longest
    else:
        if cache is None and parallel and context:  # what was asked for comes first
            kept = max(0, min(kept, (room - parallel * (own + context * token)) // state))
        left = room - kept * state
        users = parallel or _users(left, own + token * min(context or LEAST_CONTEXT, longest))
        tokens = context or min(longest, max(0, left // users - own) // token)
    made = Plan(users, tokens, users * (own + tokens * token) + kept * state, room, kept)
    if room is not None and (tokens < 2 or made.bytes > room):
        needed = users * (own + max(tokens, 2) * token) + kept * state
        raise ValueError(
            f"{users} x {max(tokens, 2):,} tokens need {needed / 2**20:,.0f} MiB; "
            f"{room / 2**20:,.0f} MiB are free beside the weights\n"
            "hint: a smaller --parallel, --context or --cache-ram, or --kv q8"
        )
    return made


def _snapshots(state: int, room: int | None, cache: int | None) -> int:
    """Snapshots that the prefix cache may have."""
    if cache is None:
        cache = MOST_CACHE if room is None else min(MOST_CACHE, room // 8)
    return cache // state


def _users(room: int, each: int) -> int:
    return max(1, min(PARALLEL, room // each))


def _workspace(engine: Engine) -> int:
    """Bytes of a pass's activations, whatever the weights' format."""
    return memory(engine.config, "f32", STEP_TOKENS).workspace
