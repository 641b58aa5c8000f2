"""What the user of docs/first_day.md has on disk: models, right and wrong, a photo, a clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

import ingot
from ingot.loading import nugget_path
from ingot.store import open_checkpoint
from tests.model.checkpoints import save_seeing_checkpoint
from tests.store import gguf_files as files


def write_first_day(home: Path) -> None:
    """Fill the empty directory `home`."""
    models = home / "models"
    models.mkdir()
    nugget = ingot.load()
    ingot.save(nugget, models / "mine")
    ingot.save(nugget, models / "half", shard_bytes=1_000_000)
    (models / "half" / "model-00003-of-00003.safetensors").unlink()
    (models / "old").mkdir()
    shutil.copy(models / "mine" / "config.json", models / "old")
    (models / "old" / "pytorch_model.bin").write_bytes(b"PK\3\4")
    write_nugget_gguf(home / "nugget.gguf")
    other = {"general.architecture": "llama", "llama.block_count": 2}
    (home / "llama-8b.gguf").write_bytes(files.gguf(other, {}))
    _write_random_seeing(models / "random-seeing")
    _write_photo(home)
    _write_clip(home / "clip.mp4")


def write_nugget_gguf(path: Path) -> None:
    """The nugget as a GGUF file: its own weights, tokenizer and template."""
    source = nugget_path()
    sizes = json.loads((source / "config.json").read_text())
    tensors = {}
    checkpoint = open_checkpoint(source)
    for name in checkpoint.table:
        inside = name if name.startswith("mtp.") else name.replace("model.", "model.language_model.", 1)
        values = np.ascontiguousarray(files.converted(inside, checkpoint.read(name).float32(), sizes))
        tensors[files.new_name(inside, sizes["num_hidden_layers"])] = files.stored(values, files.F32)
    template = (source / "chat_template.jinja").read_text(encoding="utf-8")
    metadata = files.text_metadata(sizes, tokenizer=False) | _tokenizer(source, sizes["vocab_size"])
    path.write_bytes(files.gguf(metadata | {"tokenizer.chat_template": template}, tensors))


def _tokenizer(source: Path, rows: int) -> dict[str, object]:
    raw = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    base = sorted(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    added = sorted(raw["added_tokens"], key=lambda token: token["id"])
    ids = {token["content"]: token["id"] for token in added}
    kinds = [3 if token["special"] or token["content"].startswith("<|") else 4 for token in added]
    left = rows - len(base) - len(added)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen35",
        "tokenizer.ggml.tokens": [*base, *ids, *(f"[PAD{i}]" for i in range(left))],
        "tokenizer.ggml.token_type": [*len(base) * [1], *kinds, *left * [5]],
        "tokenizer.ggml.merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in raw["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": ids["<|im_end|>"],
    }


def _write_random_seeing(path: Path) -> None:
    """Random weights that see, with the official pixel limits: the tokens are those of a real model."""
    save_seeing_checkpoint(path, 5, {"patch_size": 16})
    for name, low, high in (
        ("preprocessor_config.json", 65_536, 16_777_216),
        ("video_preprocessor_config.json", 4_096, 25_165_824),
    ):
        raw = json.loads((path / name).read_text())
        raw |= {"patch_size": 16, "size": {"shortest_edge": low, "longest_edge": high}}
        (path / name).write_text(json.dumps(raw))


def _write_photo(home: Path) -> None:
    """1920 x 1080 as the camera has it, held upright: EXIF says so."""
    y, x = np.mgrid[0:1080, 0:1920]
    picture = Image.fromarray(np.stack([x * 255 // 1919, y * 255 // 1079, (x + y) % 256], -1).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((300, 300, 800, 800), fill=(200, 30, 30))
    pen.rectangle((1100, 200, 1500, 600), fill=(20, 30, 200))
    upright = Image.Exif()
    upright[0x0112] = 6
    picture.save(home / "photo.jpg", exif=upright)
    picture.save(home / "scan.pdf")
    (home / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000))


def _write_clip(path: Path) -> None:
    """Three seconds, 25 frames each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(75):
            frame = np.zeros((240, 320, 3), np.uint8)
            frame[:, :, 0], frame[80:160, 3 * i : 3 * i + 60] = 3 * i, 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
