"""Tokens in, tokens out. Knows ids, never text."""

from ingot.engine.engine import Engine
from ingot.engine.eyes import Visual
from ingot.engine.request import Mark, Request, Reuse, Token
from ingot.engine.sampler import SamplingParams, answer_seed
from ingot.engine.scheduler import STEP_TOKENS, Scheduler
from ingot.engine.speculate import SPECULATE

__all__ = [
    "SPECULATE",
    "STEP_TOKENS",
    "Engine",
    "Mark",
    "Request",
    "Reuse",
    "SamplingParams",
    "Scheduler",
    "Token",
    "Visual",
    "answer_seed",
]
