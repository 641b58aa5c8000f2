"""Pictures give what transformers gives: features, expanded ids, positions, logits and continuations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoTokenizer  # noqa: E402
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil  # noqa: E402

import ingot  # noqa: E402
from ingot.engine.eyes import Visual  # noqa: E402
from ingot.prompt.media import open_image  # noqa: E402
from tests.model.checkpoints import reference_model, save_seeing_checkpoint  # noqa: E402
from tests.tolerance import LOGITS_OF_SCALE  # noqa: E402

SEEDS = (0, 1, 2)
BACKENDS = ("reference", "torch", "native")
FEATURES_OF_SCALE = 1e-4
SIZES = [(37, 64), (90, 31), (48, 48), (200, 17)]  # height, width


@pytest.fixture(scope="module", params=SEEDS)
def checkpoint(request: Any, tmp_path_factory: Any) -> Any:
    path = save_seeing_checkpoint(tmp_path_factory.mktemp("seeing"), request.param)
    return path, reference_model(path, 2)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes with noise on them: a resize has something to lose."""
    rng = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[0:height, 0:width] / 9
    waves = np.stack([np.sin(x + y), np.cos(x * y / 5), np.sin(y)], axis=-1) * 90 + 128
    return np.clip(waves + rng.normal(0, 20, waves.shape), 0, 255).astype(np.uint8)


def processed(path: Any, images: list[np.ndarray]) -> Any:
    return Qwen2VLImageProcessorPil.from_pretrained(path)(images=images, return_tensors="pt")


def worst(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_pixels_and_grids_equal_transformers(checkpoint: Any) -> None:
    path, _ = checkpoint
    m = ingot.load(path, backend="reference")
    images = [photo(*size) for size in SIZES]
    want = processed(path, images)
    pictures = [m.preprocessor.image(image) for image in images]
    assert [picture.grid for picture in pictures] == [tuple(grid) for grid in want["image_grid_thw"].tolist()]
    got = np.concatenate([picture.patches(0) for picture in pictures])
    assert np.abs(got - want["pixel_values"].numpy()).max() <= 1.01 / 127.5  # one level


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_equal_transformers(checkpoint: Any, backend: str) -> None:
    path, model = checkpoint
    m = ingot.load(path, backend=backend)
    images = [photo(*size) for size in SIZES]
    want = processed(path, images)
    with torch.no_grad():
        features = model.model.visual(want["pixel_values"], want["image_grid_thw"]).pooler_output.numpy()
    got = np.concatenate([m.engine.eyes.features(visual(m, image)) for image in images])
    assert worst(got, features) <= FEATURES_OF_SCALE


def visual(m: Any, image: np.ndarray) -> Visual:
    picture = m.preprocessor.image(open_image(image))
    return Visual(np.arange(picture.tokens), picture.grid, picture.patches, picture.digest)


def conversation(images: list[np.ndarray]) -> list[dict[str, Any]]:
    first = [{"type": "image", "image": images[0]}, {"type": "text", "text": "What is the world"}]
    rest = [{"type": "text", "text": "you"}, *({"type": "image", "image": image} for image in images[1:])]
    return [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": rest},
    ]


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_ids_positions_and_logits_equal_transformers(checkpoint: Any, count: int, thinking: bool) -> None:
    path, model = checkpoint
    images = [photo(*size) for size in SIZES[:count]]
    want = processed(path, images)
    ids, types = reference_ids(path, model.config, images, thinking, want["image_grid_thw"])
    position, _ = model.model.get_rope_index(ids, types, image_grid_thw=want["image_grid_thw"])
    with torch.no_grad():
        logits = model(input_ids=ids, mm_token_type_ids=types, **want).logits[0].numpy()
    for backend in BACKENDS:
        m = ingot.load(path, backend=backend)
        prompt = m.encode(conversation(images), thinking=thinking)
        assert prompt.ids.tolist() == ids[0].tolist()
        assert np.array_equal(prompt.positions, position[:, 0].numpy())
        assert worst(m.logits(prompt), logits) <= LOGITS_OF_SCALE, backend
        assert worst(m.logits(prompt, chunk=5), logits) <= LOGITS_OF_SCALE, backend


def reference_ids(path: Any, config: Any, images: list[np.ndarray], thinking: bool, grids: Any) -> tuple[Any, Any]:
    """transformers' template and tokenizer; its processor's own rule for placeholders, on the text."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    template = (path / "chat_template.jinja").read_text()
    text = tokenizer.apply_chat_template(
        conversation(images),
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    pieces = text.split("<|image_pad|>")
    counts = (grids.prod(-1) // 4).tolist()
    whole = pieces[0] + "".join("<|image_pad|>" * n + piece for n, piece in zip(counts, pieces[1:], strict=True))
    ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
    return ids, (ids == config.image_token_id).int()


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_continuation_equals_transformers(checkpoint: Any, backend: str) -> None:
    path, model = checkpoint
    images = [photo(*SIZES[0])]
    want = processed(path, images)
    ids, types = reference_ids(path, model.config, images, False, want["image_grid_thw"])
    with torch.no_grad():
        out = model.generate(input_ids=ids, mm_token_type_ids=types, **want, max_new_tokens=16, do_sample=False)
    m = ingot.load(path, backend=backend)
    got = m.generate(m.encode(conversation(images), thinking=False), max_tokens=16, temperature=0, presence_penalty=0)
    assert got.ids == out[0, ids.shape[1] :].tolist()[: len(got.ids)]
    assert len(got.ids) == 16 or got.finish_reason == "stop"
