"""Tokens in, tokens out. Knows ids, never text."""

from ingot.engine.engine import STEP_TOKENS, Engine, Request
from ingot.engine.eyes import Visual
from ingot.engine.sampler import SamplingParams

__all__ = ["STEP_TOKENS", "Engine", "Request", "SamplingParams", "Visual"]
