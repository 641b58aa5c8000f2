"""python -m tools.compare_layers CHECKPOINT: the first tensor in which Ingot and another implementation part.

Exit code 0: none above the tolerance; 1: there is one; 2: the arguments or the checkpoint cannot be used.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ingot.prompt.media import Picture, Preprocessor, open_image
from ingot.spec import Config
from ingot.store import Checkpoint, open_checkpoint, resolve
from tools.compare_layers.asked import Asked, asked_for, with_picture
from tools.compare_layers.comparison import Comparison, compare
from tools.compare_layers.diagnosis import Diagnosis, diagnose
from tools.compare_layers.recording import Recording, open_op_set, run_ingot
from tools.compare_layers.transformers_side import run_transformers

BACKENDS = ("native", "torch", "reference")
TOKENS = 70  # a page of keys and a chunk of the delta rule hold 64: both borders are crossed
# Two fp32 implementations that sum in another order part by at most 8e-6 on the tests' checkpoints, by 5e-5 on the
# official 0.8B configuration with random weights (measured).
TOLERANCE = 1e-4
SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        print(f"compare_layers: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_layers",
        description="Run tokens through Ingot and another implementation; name the first tensor in which they part.",
    )
    parser.add_argument("checkpoint", help="a checkpoint directory or hub id")
    parser.add_argument("--against", choices=("transformers", *BACKENDS), default="transformers", help="the other side")
    parser.add_argument("--other", metavar="CHECKPOINT", help="what the other side loads (default: the same)")
    parser.add_argument("--backend", choices=BACKENDS, default="native", help="Ingot's op set")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", metavar="TEXT", help="the tokens of a text")
    what.add_argument("--ids", metavar="1,2,3", help="these token ids")
    what.add_argument("--tokens", metavar="N", type=int, default=TOKENS, help=f"N random tokens (default: {TOKENS})")
    parser.add_argument(
        "--image", metavar="FILE|WxH", help="a picture in the middle of the prompt: a file, or noise of this size"
    )
    parser.add_argument(
        "--chunk", metavar="N", type=int, help="tokens a pass on Ingot's side (default: all; 1 decodes)"
    )
    parser.add_argument(
        "--tolerance", metavar="X", type=float, default=TOLERANCE,
        help=f"largest difference, in units of the tensor's largest value (default: {TOLERANCE}; 0: not one bit)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def _run(options: argparse.Namespace) -> int:
    _check(options)
    checkpoint = open_checkpoint(resolve(options.checkpoint))
    other = open_checkpoint(resolve(options.other)) if options.other else checkpoint
    ids = _ids(options, checkpoint)
    asked = asked_for(ids) if options.image is None else with_picture(ids, *_picture(options.image, checkpoint))
    theirs = _other_side(options.against, other, asked)  # first, and gone before Ingot's weights come
    ours = run_ingot(checkpoint, open_op_set(options.backend), asked, options.chunk)
    comparison = compare(ours, theirs, options.tolerance)
    diagnosis = diagnose(comparison, ours, theirs)
    if options.json:
        print(json.dumps(_as_json(options, asked, comparison, diagnosis), allow_nan=False))
    else:
        print(f"{checkpoint.path}: {len(asked.ids)} tokens, Ingot ({options.backend}) against {options.against}\n")
        print("\n".join(report(comparison, diagnosis, options.chunk)))
    return 1 if comparison.first else 0


def _check(options: argparse.Namespace) -> None:
    for name in ("tokens", "chunk"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be a positive number of tokens")
    if not 0 <= options.tolerance < np.inf:
        raise ValueError(f"--tolerance is {options.tolerance}; it must be a number from 0 up")


def _ids(options: argparse.Namespace, checkpoint: Checkpoint) -> list[int]:
    if options.prompt is not None:
        from ingot.prompt import Tokenizer

        ids = Tokenizer.from_directory(checkpoint.path).encode(options.prompt)
    elif options.ids is not None:
        try:
            ids = [int(word) for word in options.ids.split(",")]
        except ValueError:
            raise ValueError(f"--ids is {options.ids!r}; it must be integers with commas between them") from None
    else:
        ids = np.random.default_rng(SEED).integers(0, _text_ids(checkpoint.config), options.tokens).tolist()
    limit = checkpoint.config.text.vocab_size
    bad = [i for i in ids if not 0 <= i < limit]
    if bad:
        raise ValueError(f"the prompt holds token id {bad[0]}; this model's ids are 0 to {limit - 1}")
    if not ids:
        raise ValueError(f"--prompt is {options.prompt!r}, which has no tokens; one is needed")
    return ids


def _text_ids(config: Config) -> int:
    """Ids below the placeholders of pictures, which ask for pixels."""
    vision = (config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id)
    return min(config.text.vocab_size, *(i for i in vision if i > 0))


def _picture(what: str, checkpoint: Checkpoint) -> tuple[Picture, Config]:
    """The picture as the checkpoint's preprocessor makes it."""
    config = checkpoint.config
    if config.vision is None or not checkpoint.has_vision:
        raise ValueError(f"--image is {what!r}, but {checkpoint.path} has no vision tower")
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", what)
    noise = np.random.default_rng(SEED)
    source = noise.integers(0, 256, (int(size[2]), int(size[1]), 3), dtype=np.uint8) if size else what
    return Preprocessor.from_directory(checkpoint.path, config.vision).image(open_image(source)), config


def _other_side(against: str, checkpoint: Checkpoint, asked: Asked) -> Recording:
    if against == "transformers":
        return run_transformers(checkpoint, asked)
    return run_ingot(checkpoint, open_op_set(against), asked)


def report(comparison: Comparison, diagnosis: Diagnosis | None, chunk: int | None = None) -> list[str]:
    """The lines of the table and what follows it."""
    width = max(len(row.name) for row in comparison.rows)
    lines = [f"{'tensor':{width}}  {'shape':>16}  {'max abs':>9}  {'of scale':>9}"]
    first = comparison.first
    for row in comparison.rows:
        shape = "x".join(map(str, row.shape))
        mark = "  <-- first divergence" if row is first else "  *" if row.diverged else ""
        lines.append(f"{row.name:{width}}  {shape:>16}  {row.max_abs:9.2g}  {row.relative:9.2g}{mark}")
    if comparison.unseen:
        lines += ["", f"not compared, the other side has no such tensor: {', '.join(comparison.unseen)}"]
    if first is None:
        worst = max(comparison.rows, key=lambda row: row.relative)
        none = f"no divergence above {comparison.tolerance:g} of scale"
        return [*lines, "", f"{none}; the largest is {worst.relative:.2g} in {worst.name}"]
    return [*lines, "", f"first divergence: {first.name}", *_explained(comparison, diagnosis, chunk)]


def _explained(comparison: Comparison, diagnosis: Diagnosis | None, chunk: int | None) -> list[str]:
    row = comparison.first
    assert row is not None
    assert diagnosis is not None
    if row.other_shape is not None:
        return [f"  its shape is {list(row.shape)} here and {list(row.other_shape)} on the other side"]
    place = f" (row {row.token % chunk} of pass {row.token // chunk})" if chunk and row.token is not None else ""
    lines = [f"  {row.max_abs:.2g} at {list(row.worst)}, {row.relative:.2g} of scale; from token {row.token}{place}"]
    lines += [f"  the two checkpoints hold different values in {name}" for name in diagnosis.weights]
    if diagnosis.definition == "ours":
        lines.append("  Ingot computes this operation as ops.reference defines it: look at its weights or its meaning")
    if diagnosis.definition == "theirs":
        lines.append(
            "  ops.reference gives the other side's values for the same inputs: look at Ingot's kernel or state"
        )
    return [*lines, f"  cause: {diagnosis.cause or 'none of the known mistakes explains it'}"]


def _as_json(
    options: argparse.Namespace, asked: Asked, comparison: Comparison, diagnosis: Diagnosis | None
) -> dict[str, Any]:
    given = {
        "checkpoint": str(Path(options.checkpoint)), "other": options.other, "backend": options.backend,
        "against": options.against, "chunk": options.chunk, "image": options.image, "ids": asked.ids.tolist(),
    }  # fmt: skip
    return given | comparison.as_json() | {"diagnosis": asdict(diagnosis) if diagnosis else None}


if __name__ == "__main__":
    sys.exit(main())
