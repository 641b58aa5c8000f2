"""The other side: what transformers computes for the same ids, under the names of `recording`.

Modules are observed by forward hooks; what is a function there (convolution, delta rule, rotation, attention) by
replacing it in its module while the model runs. Nothing of transformers is computed differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ingot.spec import Config
from ingot.store import Checkpoint
from tools.compare_layers.asked import Asked, asked_for
from tools.compare_layers.recording import VISUAL, Recording

Array = np.ndarray
MIXERS = ("linear_attn", "self_attn", "attn")
# What is neither a module nor a function there, but is what a matrix is given.
PRODUCTS = {"self_attn.o_proj": "self_attn.gated", "mlp.down_proj": "mlp.silu_mul"}


def run_transformers(checkpoint: Checkpoint, prompt: Asked | Sequence[int]) -> Recording:
    """Every intermediate [T, ...] of transformers' model of the checkpoint's directory, fp32, one pass, no cache.

    Raises ValueError when transformers is not installed or does not find a weight that takes part in the files.
    """
    torch, transformers, modeling = _import()
    asked, config = asked_for(prompt), checkpoint.config
    with _quiet(transformers):
        model = _load(torch, transformers, checkpoint.path, config, asked)
        observer = _Observer(model, config)
        ids = torch.from_numpy(asked.ids)[None].long()
        with observer.watching(modeling), torch.no_grad():
            model(input_ids=ids, use_cache=False, **_pixels(torch, asked, ids == config.image_token_id))
    return Recording(observer.values, passes=(0,), checkpoint=checkpoint)


def _import() -> tuple[Any, Any, Any]:
    try:
        import torch
        import transformers
        from transformers.models.qwen3_5 import modeling_qwen3_5
    except ImportError as error:
        raise ValueError(
            f"against is 'transformers', which cannot be loaded here: {error}\nhint: pip install 'ingot-lm[test]'"
        ) from None
    return torch, transformers, modeling_qwen3_5


def _pixels(torch: Any, asked: Asked, placeholders: Any) -> dict[str, Any]:
    """The arguments that a picture adds."""
    if not asked.visuals:
        return {}
    (visual,) = asked.visuals
    return {
        "mm_token_type_ids": placeholders.int(),
        "pixel_values": torch.from_numpy(visual.patches(0)),
        "image_grid_thw": torch.tensor([visual.grid]),
    }


def _load(torch: Any, transformers: Any, path: Path, config: Config, asked: Asked) -> Any:
    kind = transformers.Qwen3_5ForCausalLM if config.text_only else transformers.Qwen3_5ForConditionalGeneration
    model, info = kind.from_pretrained(path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    # what it does not find it draws at random, and says so in a log line only
    missing = sorted(name for name in info["missing_keys"] if asked.visuals or not name.startswith(VISUAL))
    if missing:
        raise ValueError(
            f"{path}: transformers {transformers.__version__} finds no weight {missing[0]!r} ({len(missing)} missing) "
            "and would compare random numbers"
        )
    return model.eval()


class _Observer:
    """Hooks on one model and what they saw; `_path` is the mixer that is running."""

    def __init__(self, model: Any, config: Config) -> None:
        self.values: dict[str, Array] = {}
        self._model, self._text, self._path = model, config.text, ""
        self._embedded: Any = None  # patches before their places are added
        self._normalised = 0  # calls of l2norm since the mixer began

    @contextmanager
    def watching(self, modeling: Any) -> Iterator[None]:
        """Hooks and replacements in place, and gone again afterwards."""
        hooks = []
        for name, module in self._model.named_modules():
            hooks.append(module.register_forward_hook(self._result_of(name)))
            if name.rsplit(".", 1)[-1] in MIXERS:
                hooks.append(module.register_forward_pre_hook(self._enter(name)))
        replaced = {}
        for name, watch in self._functions().items():
            if hasattr(modeling, name):  # in a version without it, the tensor is listed as not compared
                replaced[name] = getattr(modeling, name)
                setattr(modeling, name, _watched(replaced[name], watch))
        try:
            yield
        finally:
            for name, original in replaced.items():
                setattr(modeling, name, original)
            for hook in hooks:
                hook.remove()

    def _result_of(self, name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            if name.endswith(("rotary_emb", "rotary_pos_emb")):
                for word, angles in zip(("cos", "sin"), output, strict=True):
                    # each angle stands twice, for the two halves of a rotated head
                    self._write(f"{name}.{word}", angles.flatten(0, -2)[:, : angles.shape[-1] // 2])
                if name.startswith(VISUAL):  # is given the patches with their places added
                    self._write(f"{VISUAL}pos_embed", args[0] - self._embedded)
                return
            if name == f"{VISUAL}patch_embed":
                self._embedded = output
            if name.startswith(VISUAL):  # no batch there; the grid's module gives four rows a patch
                if hasattr(output, "detach") and not name.endswith("pos_embed"):
                    self._write(name, output.flatten(1))
                return
            if name == VISUAL.rstrip("."):
                self._write(name, output.pooler_output)
                return
            first = output[0] if isinstance(output, tuple) else output
            if name and hasattr(first, "detach"):
                # one norm is given its heads as rows, without the batch
                self._write(name, first[0] if first.dim() > 2 else first)
            for matrix, word in PRODUCTS.items():
                if name.endswith(matrix):
                    self._write(name.removesuffix(matrix) + word, args[0][0])

        return hook

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any) -> None:
            self._path, self._normalised = name, 0

        return hook

    def _functions(self) -> dict[str, Callable[..., None]]:
        """Each watched function of the modeling file, and what is done with its result and arguments."""
        return {
            "causal_conv1d_fn": self._conv,
            "torch_chunk_gated_delta_rule": self._delta_rule,
            "l2norm": self._l2_norm,
            "apply_rotary_pos_emb": self._rope,
            "apply_rotary_pos_emb_vision": self._rope_of_patches,
            "eager_attention_forward": self._attention,
        }

    def _conv(self, c_1CT: Any, *args: Any, **kwargs: Any) -> None:
        self._write(f"{self._path}.conv1d", c_1CT[0].T)

    def _delta_rule(self, result: Any, *args: Any, **kwargs: Any) -> None:
        self._write(f"{self._path}.log_decay", kwargs["g"][0])
        self._write(f"{self._path}.beta", kwargs["beta"][0])
        self._write(f"{self._path}.delta_rule", result[0][0])

    def _l2_norm(self, x_1HTK: Any, *args: Any, **kwargs: Any) -> None:
        """Called for q, then for k, both repeated to the value heads; q gets its K ** -0.5 later, but in Ingot here."""
        text, word = self._text, ("q", "k")[self._normalised % 2]
        repeat = text.linear_num_value_heads // text.linear_num_key_heads
        scale = text.linear_key_head_dim**-0.5 if word == "q" else 1.0
        self._normalised += 1
        self._write(f"{self._path}.{word}_l2norm", x_1HTK[0, ::repeat].transpose(0, 1) * scale)

    def _rope(self, result: Any, *args: Any, **kwargs: Any) -> None:
        for word, x_1HTE in zip(("q_rope", "k_rope"), result, strict=True):
            self._write(f"{self._path}.{word}", x_1HTE[0].transpose(0, 1))

    def _rope_of_patches(self, result: Any, *args: Any, **kwargs: Any) -> None:
        for word, x_NHE in zip(("q_rope", "k_rope"), result, strict=True):
            self._write(f"{self._path}.{word}", x_NHE)

    def _attention(self, result: Any, *args: Any, **kwargs: Any) -> None:
        self._write(f"{self._path}.attention", result[0][0])

    def _write(self, name: str, x: Any) -> None:
        self.values[name] = x.detach().float().cpu().numpy().copy()


def _watched(function: Callable[..., Any], watch: Callable[..., None]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        watch(result, *args, **kwargs)
        return result

    return run


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its progress bars and notes: what matters of them is raised as an error."""
    log = transformers.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
