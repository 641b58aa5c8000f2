"""Numbers: digests of logits, the identities that need no reference, what each format costs, and speed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ingot.answer import Prompt
from ingot.engine import Engine
from ingot.language_model import LanguageModel
from ingot.verify.check import FailedError, Found, SkippedError
from ingot.verify.subject import Subject

KEPT_ROWS = 16  # of each prompt's last logits: 95 MB of the official vocabulary in all
DECODED = 24  # tokens of a prompt that are fed one by one
# Nats of mean KL beyond which a format does not round but break. Random weights of the 0.8B shape, which have no
# structure to be robust with, show 0.04 and 0.6 (`ingot verify` on `write_random_checkpoint`). How often both choose
# alike has no limit: random weights' logits are near-ties.
LIMITS = {"q8": 0.2, "q4": 3.0}
SPEED_TOKENS, SPEED_STEPS = 128, 8


def logits(subject: Subject, fmt: str | None = None) -> Found:
    """A digest of the logits of every fixed prompt; those as stored are kept for the formats."""
    model = subject.model(fmt)
    data: dict[str, Any] = {"weights": model.weights, "kv": "f32", "digest": {}}
    for name, prompt in subject.prompts(model).items():
        values = _finite(name, model.logits(prompt))
        data["digest"][name] = digest(subject.vocabulary(values))
        if fmt is None:
            subject.rows[name] = subject.vocabulary(values)[-KEPT_ROWS:].copy()
    return f"{model.weights}: {_all(data['digest'])} of {len(data['digest'])} prompts", data


def pictures(subject: Subject) -> Found:
    """The same of prompts with pictures, however they are cut."""
    model = subject.model()
    prompts = subject.seen(model)
    if not prompts:
        raise SkippedError("this model sees no pictures, or has no tokenizer to ask about them")
    data: dict[str, Any] = {"weights": model.weights, "digest": {}, "tokens": {}}
    for name, prompt in prompts.items():
        values = _finite(name, model.logits(prompt))
        if not np.array_equal(values, model.logits(prompt, chunk=29)):
            raise FailedError(f"{name}: other logits when the prompt is cut into pieces of 29 tokens")
        data["digest"][name] = digest(subject.vocabulary(values))
        data["tokens"][name] = len(prompt.ids)
        subject.rows[name] = subject.vocabulary(values)[-KEPT_ROWS:].copy()
    return f"{model.weights}: {_all(data['digest'])} of {len(prompts)} pictures, however cut", data


def identities(subject: Subject) -> Found:
    """decode == prefill, cut otherwise == whole, one thread == several, every instruction set == the best."""
    from ingot.ops.native import OpSet, available_isas

    model = subject.model()
    prompts = subject.prompts(model)
    for name, prompt in prompts.items():
        whole, short = model.logits(prompt), _short(prompt)
        _same(name, "in pieces of 7 tokens", model.logits(prompt, chunk=7), whole)
        _same(name, "token by token", model.logits(short, chunk=1), whole[: len(short.ids)])
    shown, whole = ["decode == prefill", "cut otherwise"], model.logits(prompts["ids"])
    for threads in (1, 2):
        other = _with(model, OpSet(threads=threads))
        _same("ids", f"on {threads} threads", other.logits(prompts["ids"].ids), whole)
    shown.append("1 == 2 threads")
    isas, short = available_isas(), _short(prompts["ids"])
    for isa in [] if subject.quick else isas[1:]:
        _same("ids", f"by {isa}", _with(model, OpSet(isa=isa)).logits(short.ids), whole[: len(short.ids)])
        shown.append(f"{isa} == {isas[0]}")
    return ", ".join(shown), {"isa": isas[0], "held": shown}


def _with(model: LanguageModel, ops: Any) -> Engine:
    """The same weights under another op set."""
    return Engine(model.engine.root, ops, model.config, model.engine.vocabulary)


def _short(prompt: Prompt) -> Prompt:
    return Prompt(prompt.ids[:DECODED], prompt.positions[:, :DECODED])


def _same(name: str, how: str, got: np.ndarray, want: np.ndarray) -> None:
    if not np.array_equal(got, want):
        row = int(np.nonzero((got != want).any(axis=1))[0][0])
        raise FailedError(f"{name}, {how}: other logits from token {row} on", {"prompt": name, "token": row})


def divergence(subject: Subject, fmt: str) -> Found:
    """How far the model in `fmt` is from the one that is stored: mean KL in nats, and how often it would choose
    alike."""
    if not subject.rows:
        raise SkippedError("needs the logits of the stored weights")
    text, data = logits(subject, fmt)
    model = subject.model(fmt)
    prompts = subject.prompts(model)
    prompts |= subject.seen(model) if set(subject.rows) - set(prompts) else {}
    kl, same = [], []
    for name, base in subject.rows.items():
        rows = subject.vocabulary(model.logits(prompts[name]))[-KEPT_ROWS:]
        kl += [divergence_of(a, b) for a, b in zip(base, rows, strict=True)]
        same += (base.argmax(axis=1) == rows.argmax(axis=1)).tolist()
    data |= {"mean_kl": float(np.mean(kl)), "max_kl": float(np.max(kl)), "agreement": float(np.mean(same))}
    data["rows"] = len(kl)
    text = f"{text}; KL {np.mean(kl):.2g} nats, chooses alike {np.mean(same):.1%} of {len(kl)}"
    if data["mean_kl"] > LIMITS[fmt]:
        raise FailedError(f"{text}: not rounding, but another model", data)
    return text, data


def divergence_of(base: np.ndarray, other: np.ndarray) -> float:
    """KL(base || other) of two rows of logits, in nats."""
    p, q = (_log_softmax(row.astype(np.float64)) for row in (base, other))
    return max(0.0, float((np.exp(p) * (p - q)).sum()))


def _log_softmax(row: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = row - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def speed(subject: Subject, fmt: str | None = None) -> Found:
    """A short prompt and some steps, tokens a second."""
    from ingot.speed import prefill_s, step_s

    model = subject.model(fmt)
    tokens = min(SPEED_TOKENS, model.engine.context - SPEED_STEPS - 1)
    prefill = tokens / min(prefill_s(model.engine, tokens) for _ in range(2))
    decode = 1 / step_s(model.engine, min(64, tokens), 1, SPEED_STEPS)
    data = {"weights": model.weights, "prefill": round(prefill, 2), "decode": round(decode, 2), "tokens": tokens}
    return f"{model.weights}: prefill {prefill:,.1f}, decode {decode:,.1f} tokens a second", data


def digest(values: np.ndarray) -> str:
    """The SHA-256 of float32 values as little-endian bytes."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()


def _all(digests: dict[str, str]) -> str:
    """One short digest for all, to be compared at a glance."""
    return hashlib.sha256("".join(digests.values()).encode()).hexdigest()[:16]


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise FailedError(f"{name}: the logits hold a NaN or an infinity")
    return values
