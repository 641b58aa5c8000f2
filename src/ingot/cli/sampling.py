"""Sampling parameters as options of commands and as `/set NAME VALUE` in the chat."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ingot.spec.presets import PRESETS


def _bias(text: str) -> tuple[str, float]:
    token, equals, bias = text.partition("=")
    if not equals:
        raise ValueError
    return token, float(bias)


def _switch(text: str) -> bool:
    return {"on": True, "off": False}[text.lower()]


Kind = Callable[[str], Any]
# name -> (what the text becomes, what the help says). What is not given, the checkpoint's generation_config.json or
# model card says.
PARAMETERS: dict[str, tuple[Kind, str]] = {
    "max_tokens": (int, "longest answer, reasoning included"),
    "preset": (str, f"the model card's values for {', '.join(PRESETS)}"),
    "temperature": (float, "0 always takes the likeliest token, 1 draws as trained"),
    "top_k": (int, "draw among the K likeliest; 0: among all"),
    "top_p": (float, "draw among the likeliest that make up this share, above 0 to 1"),
    "min_p": (float, "leave out what is less likely than this share of the likeliest, 0 to 1"),
    "presence_penalty": (float, "against what the answer has said once, -2 to 2"),
    "frequency_penalty": (float, "the same for each time it said it, -2 to 2"),
    "repetition_penalty": (float, "divides the scores of all tokens seen, 1: off"),
    "no_repeat_ngram_size": (int, "never say N tokens in a row that were there before; 0: off"),
    "dry_multiplier": (float, "against lengthening repetitions, 0: off; 0.8 is usual"),
    "dry_base": (float, "by how much that grows with each token, from 1"),
    "dry_allowed_length": (int, "repetitions up to so many tokens are free"),
    "dry_sequence_breakers": (str, "text over which DRY sees no repetition; may be repeated"),
    "logit_bias": (_bias, "token id and what to add to its score, -100 to 100; may be repeated"),
    "seed": (int, "makes the draws repeatable"),
    "stop": (str, "end the answer before this text; may be repeated"),
    "min_tokens": (int, "do not end the answer before"),
    "ignore_eos": (_switch, "never end the answer by the model's own will"),
}
REPEATED = ("stop", "dry_sequence_breakers", "logit_bias")
METAVARS = {"stop": "TEXT", "preset": "NAME", "dry_sequence_breakers": "TEXT", "logit_bias": "ID=X", "top_k": "K"}
WANTED: dict[Kind, str] = {
    int: "a whole number",
    float: "a number",
    _bias: "a token id, = and a number",
    _switch: "on or off",
}


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Give `parser` an option for each parameter."""
    group = parser.add_argument_group("sampling (what is not given: the model's own values)")
    for name, (kind, what) in PARAMETERS.items():
        if kind is _switch:
            group.add_argument(option(name), action="store_true", default=None, help=what)
            continue
        action = "append" if name in REPEATED else "store"
        metavar = METAVARS.get(name, "N" if kind is int else "X")
        read = _reading(kind) if kind is _bias else kind
        group.add_argument(option(name), type=read, action=action, metavar=metavar, help=what)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters on the command line, checked before any model is loaded; ValueError with the option's range."""
    values = {name: getattr(args, name) for name in PARAMETERS if getattr(args, name) is not None}
    if "logit_bias" in values:
        values["logit_bias"] = _mapping(values["logit_bias"])
    for name, value in values.items():
        check(name, value)
    if "min_tokens" in values and "max_tokens" in values:
        check_options({name: values[name] for name in ("min_tokens", "max_tokens")})
    return values


def parse(name: str, text: str) -> tuple[str, Any]:
    """The parameter and value of `/set NAME TEXT`; ValueError for an unknown name or a value out of range."""
    name = known(name)
    kind = PARAMETERS[name][0]
    try:
        value = kind(text)
    except (ValueError, KeyError):
        raise ValueError(f"{name} is {text!r}; it must be {WANTED[kind]}") from None
    if name in REPEATED:
        value = _mapping([value]) if name == "logit_bias" else [value]
    check(name, value)
    return name, value


def known(name: str) -> str:
    """The parameter that was meant, top_k for --top-k; ValueError when there is none."""
    name = name.strip("-").replace("-", "_")
    if name not in PARAMETERS:
        raise ValueError(f"there is no parameter {name!r}; there are {', '.join(PARAMETERS)}")
    return name


def check(name: str, value: Any) -> None:
    """ValueError with the range when `value` is outside."""
    if name == "stop" and not all(value):
        raise ValueError("stop is an empty text; it must have at least one character")
    if name == "preset" and value not in PRESETS:
        raise ValueError(f"preset is {value!r}; there are {', '.join(PRESETS)}")
    from ingot.engine import SamplingParams
    from ingot.options import SAMPLING

    if name in SAMPLING:
        SamplingParams(**{name: value})
    else:
        check_options({name: value})


def check_options(values: Mapping[str, Any]) -> None:
    """The same for what is said beside the sampling itself."""
    from ingot.options import MOST_TOKENS, Options

    Options(**{"max_tokens": MOST_TOKENS, **values})


def _reading(kind: Kind) -> Kind:
    """For argparse: its error says what is wanted."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {WANTED[kind]}") from None

    return read


def _mapping(pairs: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The biases by id; ValueError where an id is given twice."""
    for token in (token for number, (token, _) in enumerate(pairs) if token in dict(pairs[:number])):
        raise ValueError(f"logit_bias gives token {token} twice; one bias an id is needed")
    return dict(pairs)


def described(values: Mapping[str, Any]) -> str:
    """`temperature 0.3, seed 7`."""
    return ", ".join(f"{name} {value!r}" if name in REPEATED else f"{name} {value}" for name, value in values.items())


def option(name: str) -> str:
    """--top-k for top_k."""
    return "--" + name.replace("_", "-")
