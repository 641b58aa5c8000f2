"""A picture before the first word: Ingot beside transformers in bf16, the same random weights, in turns.

    python -m bench.eyes [--size 0.8B] [--weights bf16] [--runs 3] [--width 1024 --height 768]

Seconds of the vision tower and of the whole prompt (tower, then its tokens through the decoder to the first logits),
and the tower's operations a second beside what matrices that stay in the cache reach. With `--error`, instead: how far
the features of a bf16 and of a q8 tower are from those of an f32 one. Random weights: speed, and rounding, only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.arguments import WORK
from bench.checkpoints import official_shape
from ingot.spec import VisionConfig


def main() -> None:
    """Measure in turns and print."""
    options = argparse.ArgumentParser(prog="python -m bench.eyes")
    options.add_argument("--size", default="0.8B")
    options.add_argument("--weights", default="bf16")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--width", type=int, default=1024)
    options.add_argument("--height", type=int, default=768)
    options.add_argument("--work", type=Path, default=WORK)
    options.add_argument("--error", action="store_true")
    args = options.parse_args()
    checkpoint = official_shape(args.size, args.work, vision=True)
    image = np.random.default_rng(0).integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)
    if args.error:
        print(errors(checkpoint, image, args.threads))
        return
    sides = {"ingot": ours(checkpoint, image, args), "transformers": theirs(checkpoint, image, args.threads)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(args.runs + 1):
        for name, run in sides.items() if turn % 2 else reversed(sides.items()):
            if turn:
                seconds[name].append(run())
            else:
                run()
    tower, whole = ({name: statistics.median(s[i] for s in found) for name, found in seconds.items()} for i in (0, 1))
    for what, found in (("tower", tower), ("prompt", whole)):
        mine, other = found["ingot"], found["transformers"]
        print(f"{what:<7} {mine:.2f} s vs {other:.2f} s: {other / mine:.2f}x")
    print(limit(checkpoint, args, tower["ingot"]))


def ours(checkpoint: Path, image: Any, args: argparse.Namespace) -> Callable[[], tuple[float, float]]:
    """Seconds of the tower and of the whole prompt; nothing is remembered from one run to the next."""
    import ingot
    from ingot.engine.eyes import Eyes

    m = ingot.load(checkpoint, weights=args.weights, threads=args.threads, backend="native", prefix_cache=False)
    load = m.engine.eyes._load

    def run() -> tuple[float, float]:
        tower = m.engine.eyes._tower
        m.engine.eyes = Eyes(m.engine.ops, m.config, load)
        m.engine.eyes._tower = tower
        prompt = m.encode([{"role": "user", "content": [{"type": "image", "image": image}]}])
        begin = time.perf_counter()
        m.engine.eyes.features(prompt.visuals[0])
        seen = time.perf_counter()
        m.generate(prompt, max_tokens=1, temperature=0)
        return seen - begin, time.perf_counter() - begin

    return run


def theirs(checkpoint: Path, image: Any, threads: int) -> Callable[[], tuple[float, float]]:
    """The same of transformers, on the ids and pixels that Ingot prepared."""
    import torch
    from transformers import Qwen3_5ForConditionalGeneration

    import ingot

    torch.set_num_threads(threads)
    model = Qwen3_5ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    m = ingot.load(checkpoint, weights="bf16")
    prompt = m.encode([{"role": "user", "content": [{"type": "image", "image": image}]}])
    visual = prompt.visuals[0]
    pixels, grid = torch.from_numpy(visual.patches(0)).bfloat16(), torch.tensor([visual.grid])
    ids = torch.from_numpy(np.asarray(prompt.ids))[None].long()
    types = (ids == m.config.image_token_id).int()

    def run() -> tuple[float, float]:
        with torch.no_grad():
            begin = time.perf_counter()
            model.model.visual(pixels, grid)
            seen = time.perf_counter() - begin
            begin = time.perf_counter()
            model(input_ids=ids, mm_token_type_ids=types, pixel_values=pixels, image_grid_thw=grid, logits_to_keep=1)
            return seen, time.perf_counter() - begin

    return run


def errors(checkpoint: Path, image: Any, threads: int) -> str:
    """The distance of rounded towers' features from the f32 tower's: of all, and of the worst token."""
    import ingot

    features = {}
    for weights in ("f32", "bf16", "q8"):
        m = ingot.load(checkpoint, weights=weights, threads=threads, backend="native", prefix_cache=False)
        prompt = m.encode([{"role": "user", "content": [{"type": "image", "image": image}]}])
        features[weights] = np.asarray(m.engine.eyes.features(prompt.visuals[0]), np.float64)
    exact = features.pop("f32")
    lines = []
    for weights, found in features.items():
        far = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
        whole = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        lines.append(
            f"{weights:<5} {whole:.2%} of the features' length; the worst of {len(far)} tokens {far.max():.2%}"
        )
    return "\n".join(lines)


def limit(checkpoint: Path, args: argparse.Namespace, seconds: float) -> str:
    """The tower's operations a second, and what the same kernels do with matrices that stay in the cache."""
    from ingot.ops.native import OpSet
    from ingot.spec import read_config
    from ingot.speed import matrix_rate

    vision = read_config(checkpoint / "config.json").vision
    assert vision is not None
    done, most = (
        operations(vision, args.height // 16 * (args.width // 16)) / seconds,
        matrix_rate(OpSet(args.threads), args.weights),
    )
    return f"the tower does {done / 1e9:,.0f} Gop/s; matrices in the cache {most / 1e9:,.0f} in {args.weights}"


def operations(vision: VisionConfig, patches: int) -> float:
    """Multiplications and additions of the tower for one image."""
    h, f = vision.hidden_size, vision.intermediate_size
    block = 4 * h * h + 2 * h * f + 2 * patches * h
    merged = h * vision.spatial_merge_size**2
    merger = (merged * merged + merged * vision.out_hidden_size) / vision.spatial_merge_size**2
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * h
    return 2.0 * patches * (vision.depth * block + merger + patch)


if __name__ == "__main__":
    main()
