"""Rounding weights with the help of prompts: what an input never uses may be rounded coarsely."""

from ingot.quant.calibration import Calibration

__all__ = ["Calibration"]
