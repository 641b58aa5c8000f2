"""The native tower: an image's features are a function of its pixels alone, to the bit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from ingot.engine.eyes import Eyes, Visual
from ingot.model import Frames, build, vision
from ingot.prompt.media import Preprocessor
from ingot.spec import Config, parse_config
from ingot.spec.cost import eyes
from tests.model.small import RAW, weights
from tests.ops import native_cases as cases

native = pytest.importorskip("ingot.ops.native", exc_type=ImportError)

VISION = {
    "depth": 2,
    "hidden_size": 40,
    "num_heads": 2,
    "intermediate_size": 52,
    "out_hidden_size": RAW["hidden_size"],
    "patch_size": 4,
    "num_position_embeddings": 49,
}
GRIDS = [(4, 6), (2, 2), (14, 10), (4, 6)]
PIXELS = 3 * 2 * 4 * 4


def configuration(**changes: int) -> Config:
    tie = RAW["tie_word_embeddings"]
    text = {key: value for key, value in RAW.items() if key not in ("model_type", "tie_word_embeddings")}
    vision = VISION | changes
    return parse_config(
        {"model_type": "qwen3_5", "text_config": text, "vision_config": vision, "tie_word_embeddings": tie}
    )


def tower(ops: Any, fmt: str, **changes: int) -> Any:
    return build(configuration(**changes), ops, weights(), fmt, ("vision",)).model.visual


def patches(grid: tuple[int, int], seed: int) -> np.ndarray:
    return cases.draw(np.random.default_rng(seed), grid[0] * grid[1], PIXELS)


def features(ops: Any, w: Any, grids: list[tuple[int, int]], pixels: list[np.ndarray]) -> np.ndarray:
    return np.asarray(w(ops, np.concatenate(pixels), Frames.of(grids, w.config.vision)))


@pytest.mark.parametrize("fmt", ["f32", "bf16", "q8"])
def test_company_threads_and_instruction_sets_change_no_bit(fmt: str) -> None:
    pixels = [patches(grid, seed) for seed, grid in enumerate(GRIDS)]
    first: list[np.ndarray] = []
    for isa in native.available_isas():
        for threads in (1, 3):
            ops = native.OpSet(threads, isa, own_kv="f32" if fmt == "f32" else "bf16")
            w = tower(ops, fmt)
            alone = [features(ops, w, [grid], [x]) for grid, x in zip(GRIDS, pixels, strict=True)]
            first = first or alone
            assert cases.same_bits(alone, first), (isa, threads)
            together = features(ops, w, GRIDS, pixels)
            assert cases.same_bits([together], [np.concatenate(alone)]), (isa, threads)


@pytest.mark.parametrize(("fmt", "error"), [("bf16", 0.02), ("q8", 0.05)])
def test_formats_are_near(fmt: str, error: float) -> None:
    exact, held = native.OpSet(2), native.OpSet(2, own_kv="bf16")
    want = features(exact, tower(exact, "f32"), [GRIDS[2]], [patches(GRIDS[2], 5)])
    got = features(held, tower(held, fmt), [GRIDS[2]], [patches(GRIDS[2], 5)])
    assert 0 < np.abs(got - want).max() <= error * np.abs(want).max()


def test_a_frame_sees_itself_alone() -> None:
    ops = native.OpSet(2)
    w, pixels = tower(ops, "f32"), [patches(grid, seed) for seed, grid in enumerate(GRIDS)]
    before = features(ops, w, GRIDS, pixels)
    pixels[1] = np.full_like(pixels[1], np.nan)
    after = features(ops, w, GRIDS, pixels)
    first = GRIDS[0][0] * GRIDS[0][1] // 4
    assert cases.same_bits([after[:first], after[first + 1 :]], [before[:first], before[first + 1 :]])
    assert np.isnan(after[first]).all()


@pytest.mark.parametrize("fmt", ["f32", "bf16", "q8"])
def test_slices_of_rows_change_no_bit(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = native.OpSet(2, own_kv="f32" if fmt == "f32" else "bf16")
    w, pixels = tower(ops, fmt), [patches(grid, seed) for seed, grid in enumerate(GRIDS)]
    at_once = features(ops, w, GRIDS, pixels)
    for rows in (4, 23, 140):
        monkeypatch.setattr(vision, "TOWER_ROWS", rows)
        assert cases.same_bits([features(ops, w, GRIDS, pixels)], [at_once]), rows


@pytest.mark.parametrize("fmt", ["f32", "bf16", "q8"])
def test_groups_of_heads_change_no_bit(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = native.OpSet(2, own_kv="f32" if fmt == "f32" else "bf16")
    w, pixels = tower(ops, fmt, num_heads=10), [patches(grid, seed) for seed, grid in enumerate(GRIDS)]
    at_once = features(ops, w, GRIDS, pixels)
    patch_count = sum(map(len, pixels))
    for groups in (2, 5, 10):
        monkeypatch.setattr(vision, "PAIRS", patch_count**2 * 10 // groups)
        assert vision.head_groups(patch_count, 10) == groups
        assert cases.same_bits([features(ops, w, GRIDS, pixels)], [at_once]), groups


def test_what_pauses_the_tower_may_use_the_model_or_end_it() -> None:
    """Between any two operations another picture is encoded, and no bit changes; what is raised leaves nothing."""
    ops = native.OpSet(2)
    w = tower(ops, "f32")
    one, two = (np.random.default_rng(i).integers(0, 256, (1, 24, 40, 3), dtype=np.uint8) for i in (0, 1))
    films = [Preprocessor(patch=4, video_pixels=(64, 1 << 20)).film([*f], range(1)) for f in (one, two)]
    visuals = [Visual(np.arange(f.tokens), f.grid, f.patches, name) for f, name in zip(films, "ab", strict=True)]
    want = [Eyes(ops, w.config, lambda pause: w).features(visual) for visual in visuals]
    eyes, found = Eyes(ops, w.config, lambda pause: w), []

    def other() -> None:
        eyes._alive.pop("b", None)
        found.append(eyes.features(visuals[1]))

    assert cases.same_bits([eyes.features(visuals[0], other)], want[:1])
    assert len(found) > 20
    assert cases.same_bits(found, [want[1]] * len(found))

    eyes, calls = Eyes(ops, w.config, lambda pause: w), iter(range(7))
    with pytest.raises(StopIteration):
        eyes.features(visuals[0], lambda: next(calls) and None)
    assert not eyes._kept
    assert cases.same_bits([eyes.features(visuals[0])], want[:1])


def test_patches_are_made_as_they_are_sliced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A video through the engine, its frames cut in their middle, gives the tower's features of whole arrays."""
    ops = native.OpSet(2)
    w = tower(ops, "f32")
    frames = np.random.default_rng(0).integers(0, 256, (6, 24, 40, 3), dtype=np.uint8)
    film = Preprocessor(patch=4, video_pixels=(64, 1 << 20)).film(list(frames), range(6))
    assert film.grid == (3, 6, 10)
    whole = [film.patches(t) for t in range(3)]
    assert cases.same_bits([film.patches(1, 13, 37)], [whole[1][13:37]])
    want = features(ops, w, [(6, 10)] * 3, whole)
    monkeypatch.setattr(vision, "TOWER_ROWS", 50)
    eyes = Eyes(ops, w.config, lambda pause: w)
    got = eyes.features(Visual(np.arange(film.tokens), film.grid, film.patches, "a"))
    assert cases.same_bits([got], [want])


@pytest.mark.parametrize("intermediate", [52, 210])
@pytest.mark.parametrize("fmt", ["f32", "bf16", "q8"])
def test_it_takes_the_memory_that_is_planned(fmt: str, intermediate: int) -> None:
    """Wide in attention, then wide in the MLP: the plan is no less than the pass takes, and no third above it."""
    ops = native.OpSet(2, own_kv="f32" if fmt == "f32" else "bf16")
    w, size = tower(ops, fmt, intermediate_size=intermediate), (48, 56)
    planned = eyes(configuration(intermediate_size=intermediate), fmt, 4 * size[0], 4 * size[1])
    pixels, frames = patches(size, 1), Frames.of([size], w.config.vision)
    assert planned is not None
    assert planned.patches == len(pixels) == 4 * planned.tokens
    tracemalloc.start()
    try:
        w(ops, pixels, frames)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken <= planned.workspace <= 1.33 * taken
