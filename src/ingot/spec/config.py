"""Strict parsing of a `config.json` into frozen dataclasses that keep Hugging Face's field names.

A key is one of three things: a field below, a key of `NO_EFFECT` (it cannot change what the model computes), or an
error. Nothing is dropped silently: a checkpoint whose config says something we do not know is not the model we know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from ingot.spec.text_file import read_json, shown

# Keys that cannot change the logits of a text: bookkeeping, generation defaults of old transformers, training-only
# settings. `full_attention_interval` only ever produced `layer_types`, which is read instead. `output_gate_type` is
# checked below.
NO_EFFECT = frozenset(
    [
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "language_model_only",
        "mamba_ssm_dtype",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    ]
)
YARN = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "mscale",
        "mscale_all_dim", "truncate")  # fmt: skip
MAX_YARN = 64  # times the trained context (taste: positions stay below 2**24, which fp32 counts exactly)
SIZES = ("0.8b", "2b", "4b", "9b", "27b")
LINEAR, FULL = "linear_attention", "full_attention"
CONFIG_BYTES = 1 << 20  # taste: the official ones have 3 kB
# Taste, many times the largest member of the family: the weights table has rows for layers and parts for heads, and is
# built before any file is looked at.
MOST_LAYERS = MOST_HEADS = 512
T = TypeVar("T")


@dataclass(frozen=True)
class RopeParameters:
    """Partial rotary embedding with interleaved multimodal sections (spec of M-RoPE: T, H, W axes share the
    frequencies). What stands below rope_type is YaRN's: `ingot.model.yarn`."""

    rope_theta: float = 10_000_000.0
    partial_rotary_factor: float = 0.25
    mrope_section: tuple[int, ...] = (11, 11, 10)
    mrope_interleaved: bool = True
    rope_type: str = "default"
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None


@dataclass(frozen=True)
class TextConfig:
    """The decoder. Field names and defaults are Hugging Face's `Qwen3_5TextConfig`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = (
        256  # never hidden_size / heads: 4B has 2560 / 16 = 160, which reshapes without complaint and is wrong
    )
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_conv_kernel_dim: int = 4
    layer_types: tuple[str, ...] = ()
    rope_parameters: RopeParameters = field(default_factory=RopeParameters)
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32_768
    mtp_num_hidden_layers: int = 0
    # fields with a single legal value: another one would be another model
    hidden_act: str = "silu"
    attention_bias: bool = False
    attn_output_gate: bool = True
    output_gate_type: str = "silu"
    mtp_use_dedicated_embeddings: bool = False
    mlp_only_layers: tuple[int, ...] = ()

    @property
    def context(self) -> int:
        """Most tokens a sequence may have: max_position_embeddings, or as far as YaRN reaches."""
        rope = self.rope_parameters
        if rope.factor is None or rope.original_max_position_embeddings is None:
            return self.max_position_embeddings
        return int(rope.original_max_position_embeddings * rope.factor)

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that rotate (64 of 256 in the official sizes)."""
        return int(self.head_dim * self.rope_parameters.partial_rotary_factor)

    @property
    def conv_dim(self) -> int:
        """Channels of the short convolution: q, k and v of the delta rule side by side."""
        keys = self.linear_num_key_heads * self.linear_key_head_dim
        return 2 * keys + self.linear_num_value_heads * self.linear_value_head_dim


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower. Field names and defaults are Hugging Face's `Qwen3_5VisionConfig`."""

    depth: int = 27
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_heads: int = 16
    out_hidden_size: int = 3584
    num_position_embeddings: int = 2304
    in_channels: int = 3
    patch_size: int = 16
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    hidden_act: str = "gelu_pytorch_tanh"
    deepstack_visual_indexes: tuple[int, ...] = ()
    rope_parameters: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Config:
    """A whole checkpoint's configuration; `text_only` checkpoints name their tensors `model.*`, others
    `model.language_model.*`."""

    text: TextConfig
    vision: VisionConfig | None
    text_only: bool
    tie_word_embeddings: bool
    image_token_id: int = 248_056
    video_token_id: int = 248_057
    vision_start_token_id: int = 248_053
    vision_end_token_id: int = 248_054

    @property
    def prefix(self) -> str:
        """Path of the decoder's tensors, with its trailing dot."""
        return "model." if self.text_only else "model.language_model."


def read_config(path: str | Path, accept: Iterable[str] = ()) -> Config:
    """The configuration in the file `path`; ValueError names the file, the key and the rule."""
    raw = read_json(Path(path), CONFIG_BYTES)
    try:
        return parse_config(raw, accept)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def official(size: str) -> dict[str, Any]:
    """The official `config.json` of one of the sizes 0.8b, 2b, 4b, 9b, as a dictionary.

    27b is put together from the published figures of the dense 27B models (Qwen3.5, 3.6 and 3.8 share them).
    """
    if size.lower() not in SIZES:
        raise ValueError(f"size is {size!r}; the official sizes are {', '.join(SIZES)}")
    text = resources.files("ingot.spec").joinpath(f"sizes/{size.lower()}.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


def with_yarn(config: Config, factor: float) -> Config:
    """The configuration with its context `factor` times as long: YaRN as the model cards describe it; ValueError for a
    factor that is not above 1."""
    text = config.text
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor <= MAX_YARN:
        raise ValueError(f"yarn is {factor!r}; it must be a number above 1 and at most {MAX_YARN}")
    if text.rope_parameters.rope_type != "default":
        raise ValueError(f"yarn is {factor:g}, but the checkpoint's rope_type is {text.rope_parameters.rope_type!r}")
    rope = replace(
        text.rope_parameters,
        rope_type="yarn",
        factor=float(factor),
        original_max_position_embeddings=text.max_position_embeddings,
    )
    return _fit(replace(config, text=replace(text, rope_parameters=rope)))


def parse_config(raw: Any, accept: Iterable[str] = ()) -> Config:
    """A checked `Config` from the contents of a config.json.

    `accept` lists unknown keys to tolerate (dotted for nested ones: "text_config.new_key"). Raises ValueError for
    anything that is not a dense qwen3_5 model, for unknown keys and for sizes that do not fit together.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"config is a {type(raw).__name__}; a JSON object is needed")
    model_type, accepted = raw.get("model_type"), frozenset(accept)
    if model_type == "qwen3_5_text":
        text = _text(raw, "", accepted, ignore={"tie_word_embeddings"})
        return _fit(Config(text, None, text_only=True, tie_word_embeddings=_flag(raw, "tie_word_embeddings")))
    if model_type != "qwen3_5":
        raise ValueError(f"model_type is {shown(model_type)}; Ingot runs the dense 'qwen3_5' and 'qwen3_5_text' models")
    if not isinstance(raw.get("text_config"), Mapping):
        raise ValueError("text_config is missing or not an object; a 'qwen3_5' config holds the decoder's sizes there")
    text = _text(raw["text_config"], "text_config.", accepted, ignore={"tie_word_embeddings"})
    vision_raw = raw.get("vision_config")
    vision = None if vision_raw is None else _section(VisionConfig, vision_raw, "vision_config.", accepted)
    token_ids = {f.name: raw[f.name] for f in fields(Config) if f.name.endswith("_token_id") and f.name in raw}
    known = {*token_ids, "text_config", "vision_config", "tie_word_embeddings"}
    _refuse_unknown(raw, known, "", accepted)
    for name, value in token_ids.items():
        _check_type(name, value, int)
    tie = _flag(raw, "tie_word_embeddings")  # the top level decides; the nested key is absent in 9B
    return _fit(Config(text, vision, text_only=False, tie_word_embeddings=tie, **token_ids))


def _text(raw: Mapping[str, Any], where: str, accept: frozenset[str], ignore: set[str]) -> TextConfig:
    raw = {k: v for k, v in raw.items() if k not in ignore}
    experts = [k for k in raw if "expert" in k or k == "moe_intermediate_size"]
    if experts:
        raise ValueError(f"{where}{_key(experts[0])} is given; mixture-of-experts models are not supported yet")
    interval = raw.pop("full_attention_interval", 4)
    rope, scaling = (_rope(raw.pop(name, None), f"{where}{name}") for name in ("rope_parameters", "rope_scaling"))
    if rope or scaling:
        # rope_scaling is how model cards before transformers 5 spell the keys that YaRN adds
        twice = sorted(k for k in scaling if k in rope and k != "rope_type" and rope[k] != scaling[k])
        _require(not twice, f"{where}rope_scaling gives {', '.join(twice)}, which rope_parameters gives otherwise")
        both = rope | scaling
        if both.get("rope_type") == "yarn":
            length = raw.get("max_position_embeddings", TextConfig.max_position_embeddings)
            both.setdefault("original_max_position_embeddings", length)
        raw["rope_parameters"] = _section(RopeParameters, both, f"{where}rope_parameters.", accept)
    if raw.get("layer_types") is None:
        _check_type(f"{where}full_attention_interval", interval, int)
        layers: Any = raw.get("num_hidden_layers")
        _check_type(f"{where}num_hidden_layers", layers, int)
        if not (0 < interval <= MOST_LAYERS and 0 < layers <= MOST_LAYERS):
            raise ValueError(
                f"{where}full_attention_interval is {shown(interval)}, num_hidden_layers {shown(layers)}; "
                f"both are in 1..{MOST_LAYERS}"
            )
        raw["layer_types"] = [FULL if (i + 1) % interval == 0 else LINEAR for i in range(layers)]
    if raw.get("output_gate_type") == "swish":
        raw["output_gate_type"] = "silu"  # two names of one function
    return _section(TextConfig, raw, where, accept)


def _rope(raw: Any, where: str) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where} is a {type(raw).__name__}; an object is needed")
    rope = {k: v for k, v in raw.items() if k not in YARN or v is not None}  # null: not given
    if "type" in rope and "rope_type" not in rope:
        rope["rope_type"] = rope.pop("type")  # MLX tools and old cards
    return rope


def _section(cls: type[T], raw: Any, where: str, accept: frozenset[str]) -> T:
    """An instance of dataclass `cls` from a JSON object, every value type-checked."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where.rstrip('.')} is a {type(raw).__name__}; an object is needed")
    hints, values = get_type_hints(cls), {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name in raw:
            values[item.name] = _value(f"{where}{item.name}", raw[item.name], hints[item.name])
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{where}{item.name} is missing")
    _refuse_unknown(raw, set(values), where, accept)
    return cls(**values)


def _value(name: str, value: Any, hint: Any) -> Any:
    if name.endswith("vision_config.rope_parameters"):
        return tuple(sorted(value.items())) if isinstance(value, Mapping) else ()
    if str(hint).startswith("tuple"):
        element = str if "str" in str(hint) else int
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {shown(value)}; a list is needed")
        for entry in value:
            _check_type(name, entry, element)
        return tuple(value)
    if hint is RopeParameters:
        return value
    hint = next((kind for kind in get_args(hint) if kind is not type(None)), hint)  # X | None
    _check_type(name, value, hint)
    return _finite(name, value) if hint is float else value


def _finite(name: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    _require(math.isfinite(number), f"{name} is {shown(value)}; a finite number is needed")
    return number


def _check_type(name: str, value: Any, wanted: type) -> None:
    allowed = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{name} is {shown(value)}; {wanted.__name__} is needed")


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name, False)
    _check_type(name, value, bool)
    return bool(value)


def _refuse_unknown(raw: Mapping[str, Any], known: set[str], where: str, accept: frozenset[str]) -> None:
    for key in raw:
        if key not in known and key not in NO_EFFECT and f"{where}{key}" not in accept:
            name = f"{where}{_key(key)}"
            raise ValueError(
                f"{name} is not a key Ingot knows, so it cannot tell whether it changes the model\n"
                f"hint: pass accept=['{name}'] if you know that it does not"
            )


def _key(key: str) -> str:
    """A key as an error shows it: a hostile one may be long or hold line breaks."""
    return key if len(key) <= 80 and key.isprintable() else shown(key)


def _fit(config: Config) -> Config:
    """`config` itself, after checking that its sizes are positive, bounded and fit together."""
    text = config.text
    for section in (text, config.vision):
        for item in fields(section) if section else ():
            value = getattr(section, item.name)
            if isinstance(value, int) and not isinstance(value, bool) and item.name != "mtp_num_hidden_layers":
                _require(0 < value < 2**31, f"{item.name} is {shown(value)}; it must be positive and below 2**31")
    for name, count, most in (
        ("num_hidden_layers", text.num_hidden_layers, MOST_LAYERS),
        ("num_attention_heads", text.num_attention_heads, MOST_HEADS),
        ("depth", config.vision.depth if config.vision else 1, MOST_LAYERS),
    ):
        _require(count <= most, f"{name} is {count}; {most} is the most")
    single = {
        "hidden_act": "silu",
        "attention_bias": False,
        "attn_output_gate": True,
        "output_gate_type": "silu",
        "mtp_use_dedicated_embeddings": False,
        "mlp_only_layers": (),
    }
    for name, only in single.items():
        _require(getattr(text, name) == only, f"{name} is {shown(getattr(text, name))}; a qwen3_5 decoder has {only!r}")
    _require(
        len(text.layer_types) == text.num_hidden_layers,
        f"layer_types has {len(text.layer_types)} entries; num_hidden_layers is {text.num_hidden_layers}",
    )
    for kind in text.layer_types:
        _require(kind in (LINEAR, FULL), f"layer_types holds {shown(kind)}; {LINEAR!r} and {FULL!r} exist")
    for many, few in (
        ("num_attention_heads", "num_key_value_heads"),
        ("linear_num_value_heads", "linear_num_key_heads"),
    ):
        a, b = getattr(text, many), getattr(text, few)
        _require(a % b == 0, f"{many} is {a}, which {few} = {b} does not divide")
    _require(
        text.mtp_num_hidden_layers in (0, 1),
        f"mtp_num_hidden_layers is {shown(text.mtp_num_hidden_layers)}; 0 and 1 exist",
    )
    _require(0 < text.rms_norm_eps < 1, f"rms_norm_eps is {text.rms_norm_eps}; it lies between 0 and 1")
    _fit_rope(text)
    for name, index in ((f.name, getattr(config, f.name)) for f in fields(Config) if f.name.endswith("_token_id")):
        _require(0 <= index < 2**31, f"{name} is {shown(index)}; it must be a token's id")
    if config.vision is not None:
        _fit_vision(config.vision)
        _require(
            config.vision.deepstack_visual_indexes == (),
            "deepstack_visual_indexes is not empty; qwen3_5 has no deepstack",
        )
        _require(
            config.vision.out_hidden_size == text.hidden_size,
            f"out_hidden_size is {config.vision.out_hidden_size}; it must equal hidden_size = {text.hidden_size}",
        )
    return config


def _fit_vision(vision: VisionConfig) -> None:
    # bounds are taste, far beyond any model: a picture is enlarged to at least one block of patches
    for name, most in (("patch_size", 128), ("spatial_merge_size", 8), ("temporal_patch_size", 8)):
        _require(getattr(vision, name) <= most, f"{name} is {getattr(vision, name)}; {most} is the most")
    _require(vision.in_channels == 3, f"in_channels is {vision.in_channels}; pictures have 3")
    _require(
        vision.hidden_size % vision.num_heads == 0,
        f"hidden_size is {vision.hidden_size}, which num_heads = {vision.num_heads} does not divide",
    )
    side = math.isqrt(vision.num_position_embeddings)
    _require(
        side * side == vision.num_position_embeddings,
        f"num_position_embeddings is {vision.num_position_embeddings}; a square grid has a square number of them",
    )


def _fit_rope(text: TextConfig) -> None:
    rope = text.rope_parameters
    _require(
        rope.rope_type in ("default", "yarn"), f"rope_type is {shown(rope.rope_type)}; 'default' and 'yarn' exist here"
    )
    _fit_yarn(rope)
    _require(rope.mrope_interleaved, "mrope_interleaved is false; qwen3_5 interleaves its sections")
    _require(rope.rope_theta > 0, f"rope_theta is {rope.rope_theta}; it must be positive")
    _require(
        0 < rope.partial_rotary_factor <= 1, f"partial_rotary_factor is {rope.partial_rotary_factor}; it lies in (0, 1]"
    )
    _require(
        text.rotary_dim > 0 and text.rotary_dim % 2 == 0,
        f"head_dim * partial_rotary_factor is {text.rotary_dim}; rotary dimensions come in pairs",
    )
    _require(
        len(rope.mrope_section) == 3 and all(n >= 0 for n in rope.mrope_section),
        f"mrope_section is {shown(list(rope.mrope_section))}; three counts (T, H, W) are needed",
    )


def _fit_yarn(rope: RopeParameters) -> None:
    given = {name: value for name in YARN if (value := getattr(rope, name)) is not None}
    if rope.rope_type == "default":
        _require(not given, f"{next(iter(given), '')} is given in rope_parameters, but rope_type is 'default'")
        return
    for name in ("factor", "original_max_position_embeddings"):
        _require(name in given, f"{name} is missing in rope_parameters, which rope_type 'yarn' needs")
    _require(1 <= given["factor"] <= MAX_YARN, f"factor is {rope.factor}; YaRN's is 1 to {MAX_YARN}")
    length = given["original_max_position_embeddings"]
    _require(
        0 < length < 2**31 / MAX_YARN,
        f"original_max_position_embeddings is {length}; it must be positive and below 2**31 / {MAX_YARN}",
    )
    for name in ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"):
        value = given.get(name, 1)
        _require(0 < value < 1e6, f"{name} is {value}; it must be positive and below 1e6")
    _require(rope.rope_theta > 1, f"rope_theta is {rope.rope_theta}; YaRN needs more than 1")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)
