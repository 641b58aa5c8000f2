"""Sampling parameters as options of commands and as `/set NAME VALUE` in the chat."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

# name -> (type, what the help says). What is not given, the checkpoint's generation_config.json or model card says.
PARAMETERS: dict[str, tuple[type, str]] = {
    "max_tokens": (int, "longest answer, reasoning included"),
    "temperature": (float, "0 always takes the likeliest token, 1 draws as trained"),
    "top_k": (int, "draw among the K likeliest; 0: among all"),
    "top_p": (float, "draw among the likeliest that make up this share, above 0 to 1"),
    "min_p": (float, "leave out what is less likely than this share of the likeliest, 0 to 1"),
    "presence_penalty": (float, "against what the answer has said once, -2 to 2"),
    "frequency_penalty": (float, "the same for each time it said it, -2 to 2"),
    "repetition_penalty": (float, "divides the scores of all tokens seen, 1: off"),
    "seed": (int, "makes the draws repeatable"),
    "stop": (str, "end the answer before this text; may be repeated"),
}


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Give `parser` an option for each parameter."""
    group = parser.add_argument_group("sampling (what is not given: the model's own values)")
    for name, (kind, what) in PARAMETERS.items():
        action = "append" if name == "stop" else "store"
        metavar = {"stop": "TEXT", "max_tokens": "N", "top_k": "K", "seed": "N"}.get(name, "X")
        group.add_argument(option(name), type=kind, action=action, metavar=metavar, help=what)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters on the command line, checked before any model is loaded; ValueError with the option's range."""
    values = {name: getattr(args, name) for name in PARAMETERS if getattr(args, name) is not None}
    for name, value in values.items():
        check(name, value)
    return values


def parse(name: str, text: str) -> tuple[str, Any]:
    """The parameter and value of `/set NAME TEXT`; ValueError for an unknown name or a value out of range."""
    name = name.strip("-").replace("-", "_")
    if name not in PARAMETERS:
        raise ValueError(f"there is no parameter {name!r}; there are {', '.join(PARAMETERS)}")
    kind = PARAMETERS[name][0]
    try:
        value = [text] if name == "stop" else kind(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}; it must be {'a whole number' if kind is int else 'a number'}") from None
    check(name, value)
    return name, value


def check(name: str, value: Any) -> None:
    """ValueError with the range when `value` is outside."""
    if name == "max_tokens":
        if value < 1:
            raise ValueError(f"max_tokens is {value}; it must be a positive number of tokens")
    elif name == "stop":
        if not all(value):
            raise ValueError("stop is an empty text; it must have at least one character")
    else:
        from ingot.engine import SamplingParams

        SamplingParams(**{name: value})


def described(values: Mapping[str, Any]) -> str:
    """`temperature 0.3, seed 7`."""
    return ", ".join(f"{name} {value!r}" if name == "stop" else f"{name} {value}" for name, value in values.items())


def option(name: str) -> str:
    """--top-k for top_k."""
    return "--" + name.replace("_", "-")
