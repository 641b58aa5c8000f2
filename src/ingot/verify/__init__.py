"""Checking a real checkpoint on the machine where it is: files, words, numbers; each check alone."""

from ingot.verify.check import Check, SkippedError
from ingot.verify.run import verify

__all__ = ["Check", "SkippedError", "verify"]
