"""What the model is: configuration, weights table, state and cost. Standard library only; everything else reads it."""

from ingot.spec.config import Config, RopeParameters, TextConfig, VisionConfig, official, parse_config, read_config
from ingot.spec.weights import Weight, weights_table

__all__ = [
    "Config",
    "RopeParameters",
    "TextConfig",
    "VisionConfig",
    "Weight",
    "official",
    "parse_config",
    "read_config",
    "weights_table",
]
