"""Videos give what transformers gives: frames, times, ids, positions, features, logits and continuations."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
av = pytest.importorskip("av")

from transformers import AutoTokenizer  # noqa: E402
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor  # noqa: E402
from transformers.models.qwen3_vl.video_processing_qwen3_vl import (  # noqa: E402
    Qwen3VLVideoProcessor,
    smart_resize,
)
from transformers.video_utils import VideoMetadata, read_video_pyav  # noqa: E402

import ingot  # noqa: E402
from ingot.engine.eyes import Visual  # noqa: E402
from ingot.prompt.media import open_video  # noqa: E402
from tests.model.checkpoints import reference_model, save_seeing_checkpoint  # noqa: E402
from tests.model.test_vision import BACKENDS, FEATURES_OF_SCALE, photo, processed, worst  # noqa: E402
from tests.tolerance import LOGITS_OF_SCALE  # noqa: E402

LEVEL = 1 / 127.5  # of normalised pixels


@pytest.fixture(scope="module", params=(1, 2))
def checkpoint(request: Any, tmp_path_factory: Any) -> Any:
    path = save_seeing_checkpoint(tmp_path_factory.mktemp("seeing"), request.param)
    return path, reference_model(path, 2)


def moving(frames: int, height: int, width: int) -> list[np.ndarray]:
    """Shapes that wander, so that no two frames are alike; far from black and white, where a resize in two passes that
    clips between them (Pillow's) differs from one that does not."""
    whole = (photo(height, width + 3 * frames) * 0.5 + 60).astype(np.uint8)
    return [np.ascontiguousarray(whole[:, 3 * i : 3 * i + width]) for i in range(frames)]


def encoded(frames: list[np.ndarray], rate: Any = 12, kind: str = "mp4", codec: str = "mpeg4") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


class Processor(Qwen3VLVideoProcessor):
    """transformers' own, but where torchvision is not installed: the resize that torchvision does."""

    def resize(self, videos: Any, size: Any, resample: Any, factor: int, temporal_factor: int, **rest: Any) -> Any:
        try:
            import torchvision  # noqa: F401
        except ImportError:
            sides = smart_resize(
                videos.shape[1], *videos.shape[-2:], temporal_factor, factor, size.shortest_edge, size.longest_edge
            )
            frames = videos.flatten(0, 1)  # uint8, as torchvision gives them to torch
            big = torch.nn.functional.interpolate(frames, sides, mode="bicubic", antialias=True, align_corners=False)
            return big.unflatten(0, videos.shape[:2])
        return super().resize(videos, size, resample, factor, temporal_factor, **rest)

    def rescale_and_normalize(self, videos: Any, *rest: Any, **named: Any) -> Any:
        return videos.float() / 127.5 - 1


def seen(path: Path, frames: Any, metadata: VideoMetadata) -> tuple[Any, list[float]]:
    """pixel_values_videos and video_grid_thw of frames that are already chosen, and the times of temporal patches."""
    processor = Processor.from_pretrained(path)
    made = processor._preprocess(
        [torch.from_numpy(np.asarray(frames)).permute(0, 3, 1, 2)],
        do_resize=True,
        size=processor.size,
        resample=processor.resample,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=None,
        image_std=None,
        patch_size=processor.patch_size,
        temporal_patch_size=processor.temporal_patch_size,
        merge_size=processor.merge_size,
        cap_pixels_per_frame=False,
        return_tensors="pt",
    )
    times = Qwen3VLProcessor._calculate_timestamps(None, metadata.frames_indices, metadata.fps, 2)
    return made, times


def from_file(path: Path, file: Path, **options: Any) -> tuple[Any, list[float]]:
    """What transformers sees of a video file, read by its PyAV reader."""
    choose = Processor.from_pretrained(path).sample_frames
    frames, metadata = read_video_pyav(str(file), lambda metadata, **_: choose(metadata, **options))
    return seen(path, frames, metadata)


def from_list(path: Path, frames: list[np.ndarray], fps: float) -> tuple[Any, list[float]]:
    about = VideoMetadata(total_num_frames=len(frames), fps=fps, frames_indices=list(range(len(frames))))
    return seen(path, frames, about)


def same_video(path: Path, ours: Any, theirs: tuple[Any, list[float]]) -> None:
    made, times = theirs
    assert [ours.grid] == [tuple(grid) for grid in made["video_grid_thw"].tolist()]
    assert list(ours.seconds) == times
    got = np.concatenate([ours.patches(t) for t in range(ours.grid[0])])
    levels = np.abs(got - made["pixel_values_videos"].numpy()) / LEVEL
    # Pillow and torch round after each of a resize's two passes, with weights of other precision
    assert levels.max() < 2.1
    assert (levels > 1.1).mean() < 1e-3


FILMS = [
    (31, 12, "mp4", "mpeg4"),
    (75, "24000/1001", "mov", "mpeg4"),
    (9, 5, "avi", "mpeg4"),
    (40, 10, "mp4", "mpeg2video"),
]


@pytest.mark.parametrize(("frames", "rate", "kind", "codec"), FILMS)
def test_frames_of_a_file_equal_transformers(
    checkpoint: Any, tmp_path: Path, frames: int, rate: Any, kind: str, codec: str
) -> None:
    path, _ = checkpoint
    m = ingot.load(path, backend="reference")
    file = tmp_path / f"clip.{kind}"
    file.write_bytes(encoded(moving(frames, 46, 70), Fraction(rate), kind, codec))
    same_video(path, open_video(file, m.preprocessor), from_file(path, file))
    same_video(path, open_video(file.read_bytes(), m.preprocessor, fps=3.5), from_file(path, file, fps=3.5))
    same_video(path, open_video(file, m.preprocessor, max_frames=5), from_file_at_most(path, file, 5))


def from_file_at_most(path: Path, file: Path, most: int) -> tuple[Any, list[float]]:
    def choose(metadata: Any, **_: Any) -> Any:
        processor = Processor.from_pretrained(path, max_frames=most)
        return processor.sample_frames(metadata)

    return seen(path, *read_video_pyav(str(file), choose))


@pytest.mark.parametrize(("frames", "height", "width"), [(7, 46, 70), (4, 7, 30), (2, 150, 90)])
def test_a_list_of_frames_equals_transformers(checkpoint: Any, frames: int, height: int, width: int) -> None:
    path, _ = checkpoint
    m = ingot.load(path, backend="reference")
    film = moving(frames, height, width)
    same_video(path, open_video(film, m.preprocessor, fps=3), from_list(path, film, 3))


def test_sampling_equals_transformers() -> None:
    from ingot.pixels.video import sample

    rng = np.random.default_rng(0)
    processor = Processor(size={"shortest_edge": 4096, "longest_edge": 25165824})
    for _ in range(2000):
        total = int(rng.integers(1, 40_000))
        rate = float(rng.choice([23.976023976, 24, 25, 29.97, 30, 59.94, 7.3, rng.uniform(0.1, 240)]))
        wanted = float(rng.choice([2, 2, 1, 0.5, 4, 30]))
        metadata = VideoMetadata(total_num_frames=total, fps=rate)
        want = processor.sample_frames(metadata, fps=wanted).tolist()
        assert sample(total, rate, wanted, 4, 768) == want


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_equal_transformers(checkpoint: Any, backend: str, tmp_path: Path) -> None:
    path, model = checkpoint
    m = ingot.load(path, backend=backend)
    (tmp_path / "clip.mp4").write_bytes(encoded(moving(31, 46, 70)))
    made, _ = from_file(path, tmp_path / "clip.mp4")
    with torch.no_grad():
        want = model.model.visual(made["pixel_values_videos"], made["video_grid_thw"]).pooler_output.numpy()
    exact = (
        made["pixel_values_videos"]
        .numpy()
        .reshape(made["video_grid_thw"][0][0], -1, made["pixel_values_videos"].shape[1])
    )
    grid = tuple(made["video_grid_thw"][0].tolist())
    got = m.engine.eyes.features(Visual(np.arange(len(want)), grid, lambda t, begin, end: exact[t][begin:end], "a"))
    assert worst(got, want) <= FEATURES_OF_SCALE


def mixture(film: Any, frames: list[np.ndarray], picture: np.ndarray) -> list[dict[str, Any]]:
    """A picture, a video file, words, a video as frames, in two turns."""
    first = [
        {"type": "image", "image": picture},
        {"type": "video", "video": film},
        {"type": "text", "text": "What is the world"},
    ]
    last = [{"type": "text", "text": "you"}, {"type": "video", "video": frames, "fps": 3}]
    return [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": last},
    ]


def reference_prompt(path: Path, config: Any, messages: Any, thinking: bool, image: Any, videos: Any) -> Any:
    """ids and token types by transformers' template, tokenizer and rule for placeholders, on the text."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    template = (path / "chat_template.jinja").read_text()
    text = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    text = text.replace("<|image_pad|>", "<|image_pad|>" * int(image["image_grid_thw"].prod() // 4))
    pieces = text.split("<|video_pad|>")
    whole = pieces[0]
    for piece, (made, times) in zip(pieces[1:], videos, strict=True):
        _, down, across = made["video_grid_thw"][0].tolist()
        for time in times:
            whole += f"<{time:.1f} seconds><|vision_start|>" + "<|video_pad|>" * (down * across // 4) + "<|vision_end|>"
        whole += piece
    ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
    return ids, (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()


def test_a_mixture_of_pictures_videos_and_words_equals_transformers(checkpoint: Any, tmp_path: Path) -> None:
    path, model = checkpoint
    thinking = bool(model.config.text_config.tie_word_embeddings)  # one of the two checkpoints
    file, frames, picture = tmp_path / "clip.mp4", moving(3, 20, 26), photo(20, 40)
    file.write_bytes(encoded(moving(17, 30, 22)))
    sees = ingot.load(path, backend="reference").preprocessor
    messages = mixture(str(file), frames, picture)
    image, videos = processed(path, [picture]), [from_file(path, file), from_list(path, frames, 3)]
    ids, types = reference_prompt(path, model.config, messages, thinking, image, videos)
    ours = [open_video(source, sees, fps=fps) for source, fps in ((file, None), (frames, 3))]
    patches = np.concatenate([video.patches(t) for video in ours for t in range(video.grid[0])])
    given = dict(image) | {  # pixels that are ours: a level's difference would be seen in the logits
        "pixel_values_videos": torch.from_numpy(patches),
        "video_grid_thw": torch.cat([made["video_grid_thw"] for made, _ in videos]),
    }
    grids = {key: given[key] for key in ("image_grid_thw", "video_grid_thw")}
    position, _ = model.model.get_rope_index(ids, types, **grids)
    with torch.no_grad():
        logits = model(input_ids=ids, mm_token_type_ids=types, **given).logits[0].numpy()
        out = model.generate(input_ids=ids, mm_token_type_ids=types, **given, max_new_tokens=12, do_sample=False)
    for backend in BACKENDS:
        m = ingot.load(path, backend=backend)
        prompt = m.encode(messages, thinking=thinking)
        assert prompt.ids.tolist() == ids[0].tolist()
        assert np.array_equal(prompt.positions, position[:, 0].numpy())
        assert worst(m.logits(prompt), logits) <= LOGITS_OF_SCALE, backend
        if backend == "reference":  # slow, and its logits are right
            continue
        got = m.generate(prompt, max_tokens=12, temperature=0, presence_penalty=0)
        assert got.ids == out[0, ids.shape[1] :].tolist()[: len(got.ids)]
        assert len(got.ids) == 12 or got.finish_reason == "stop"
