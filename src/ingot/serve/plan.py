"""How many users of how many tokens fit: decided once, at the start, so that nobody is swapped out later."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingot.answering import Job
from ingot.engine import STEP_TOKENS, Engine
from ingot.engine.sequence import MARGIN
from ingot.serve.errors import bad
from ingot.spec.cost import kv_bytes, memory, state_bytes

PARALLEL = 4  # answers at a time unless told (taste: four people and a laptop)
LEAST_CONTEXT = 2048  # fewer tokens a user make room for fewer users instead (taste: a question, tools, an answer)


@dataclass(frozen=True)
class Plan:
    """`parallel` answers run at a time, each of `context` tokens with its prompt; `bytes` is what they take, `room`
    what there was (None: nobody knows)."""

    parallel: int
    context: int
    bytes: int
    room: int | None

    def __str__(self) -> str:
        free = "" if self.room is None else f" of {self.room / 2**20:,.0f} MiB free"
        return f"{self.parallel} x {self.context:,} tokens fit: {self.bytes / 2**20:,.0f} MiB{free}"

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


def plan(engine: Engine, parallel: int | None, context: int | None, available: int | None) -> Plan:
    """The users and tokens that were asked for, or as many as fit; ValueError where they do not."""
    longest = engine.context
    if context is not None and not 1 < context <= longest:
        raise ValueError(f"--context is {context}; this model's context is 2 to {longest:,} tokens")
    state, token = state_bytes(engine.config), kv_bytes(engine.config, engine.states.kv)
    room = None if available is None else max(0, available - MARGIN - _workspace(engine))
    if room is None:
        users, tokens = parallel or PARALLEL, context or longest
    else:
        users = parallel or _users(room, state + token * min(context or LEAST_CONTEXT, longest))
        tokens = context or min(longest, max(0, room // users - state) // token)
    made = Plan(users, tokens, users * (state + tokens * token), room)
    if room is not None and (tokens < 2 or made.bytes > room):
        raise ValueError(
            f"{users} x {max(tokens, 2):,} tokens need {users * (state + max(tokens, 2) * token) / 2**20:,.0f} MiB; "
            f"{room / 2**20:,.0f} MiB are free beside the weights\n"
            "hint: a smaller --parallel or --context, or --kv q8"
        )
    return made


def _users(room: int, each: int) -> int:
    return max(1, min(PARALLEL, room // each))


def _workspace(engine: Engine) -> int:
    """Bytes of a pass's activations, whatever the weights' format."""
    return memory(engine.config, "f32", STEP_TOKENS).workspace
