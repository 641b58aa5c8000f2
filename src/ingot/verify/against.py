"""The other side: transformers' logits of the same prompts and pictures, in fp32, one model in memory at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.answer import Prompt
from ingot.memory import available
from ingot.spec.cost import parameters
from ingot.verify.check import FailedError, Found, SkippedError
from ingot.verify.numbers import KEPT_ROWS
from ingot.verify.subject import Subject

# Of the logits' scale: two fp32 implementations that sum in another order differ by 1e-5 on a few random layers, and by
# more the deeper a model is (taste: a wrong operation shows as 1e-2 at least).
LIMIT = 2e-3


def check_installed() -> None:
    """ValueError where transformers or torch are not here."""
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--against is 'transformers', but {' and '.join(missing)} cannot be imported here\n"
            "hint: pip install 'ingot-lm[verify]'"
        )


def transformers(subject: Subject) -> Found:
    """The largest difference of Ingot's f32 logits from transformers', and how often both choose alike."""
    config = subject.checkpoint.config
    needed, free = 4 * parameters(config) + (1 << 30), available()
    if free is not None and needed > free:
        raise SkippedError(f"transformers needs {needed / 2**30:.1f} GiB for it, and {free / 2**30:.1f} GiB are free")
    model = subject.model("f32")
    prompts = subject.prompts(model) | subject.seen(model)
    ours = {name: model.logits(prompt)[-KEPT_ROWS:] for name, prompt in prompts.items()}
    del model
    subject.give_up()
    version, theirs = _logits(subject, prompts)
    data: dict[str, Any] = {"version": version, "of_scale": {}, "agreement": {}}
    for name, rows in ours.items():
        data["of_scale"][name] = float(np.abs(rows - theirs[name]).max() / np.abs(theirs[name]).max())
        data["agreement"][name] = float((rows.argmax(axis=1) == theirs[name].argmax(axis=1)).mean())
    worst = max(data["of_scale"], key=lambda name: data["of_scale"][name])
    alike = np.mean(list(data["agreement"].values()))
    text = (
        f"transformers {version}: {data['of_scale'][worst]:.1e} of scale at most ({worst}), chooses alike {alike:.1%}"
    )
    if not data["of_scale"][worst] <= LIMIT:
        raise FailedError(f"{text}; {LIMIT:.0e} is allowed", data)
    return text, data


def _logits(subject: Subject, prompts: dict[str, Prompt]) -> tuple[str, dict[str, np.ndarray]]:
    import torch
    import transformers as library

    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    config = subject.checkpoint.config
    kind = library.Qwen3_5ForCausalLM if config.text_only else library.Qwen3_5ForConditionalGeneration
    model, info = kind.from_pretrained(
        subject.path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    ignored = "mtp." if subject.checkpoint.has_vision else ("mtp.", "model.visual.")
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(ignored))
    if missing:
        raise FailedError(f"transformers {library.__version__} finds no weight {missing[0]!r} in the files")
    model.eval()
    with torch.no_grad():
        rows = {name: model(**_inputs(torch, subject, prompt)).logits[0] for name, prompt in prompts.items()}
    return library.__version__, {name: row.numpy()[-KEPT_ROWS:] for name, row in rows.items()}


def _inputs(torch: Any, subject: Subject, prompt: Prompt) -> dict[str, Any]:
    """Our ids and pixels; positions are for them to find."""
    ids = torch.tensor([list(map(int, prompt.ids))])
    if not prompt.visuals:
        return {"input_ids": ids, "use_cache": False}
    pixels = np.concatenate([visual.patches(0) for visual in prompt.visuals])
    return {
        "input_ids": ids,
        "use_cache": False,
        "mm_token_type_ids": (ids == subject.checkpoint.config.image_token_id).int(),
        "pixel_values": torch.from_numpy(np.ascontiguousarray(pixels)),
        "image_grid_thw": torch.tensor([visual.grid for visual in prompt.visuals]),
    }
