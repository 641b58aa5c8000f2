"""The command line over a real model: a small random checkpoint from disk, loaded by every backend."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from ingot.store import write_random_checkpoint
from tests.cli.run_ingot import run
from tests.prompt.small_tokenizer import write_small_tokenizer

BACKENDS = [
    "reference",
    *(["native"] if importlib.util.find_spec("ingot._native") else []),
    *(["torch"] if importlib.util.find_spec("torch") else []),
]
ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random")
    vocabulary = write_small_tokenizer(path)
    config = {
        "model_type": "qwen3_5_text",
        "vocab_size": vocabulary + 5,
        "hidden_size": 40,
        "intermediate_size": 57,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 12,
        "linear_conv_kernel_dim": 4,
        "max_position_embeddings": 512,
        "rope_parameters": ROPE | {"mrope_interleaved": True},
    }
    return write_random_checkpoint(path, config, dtype="f32", seed=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_answer_is_a_function_of_its_seed(checkpoint: Path, backend: str) -> None:
    words = ["chat", str(checkpoint), "-p", "What is the world?", "--no-think", "--backend", backend, "--json"]
    times = 1 if backend == "torch" else 2  # importing torch takes seconds
    records = [json.loads(run(*words, "--max-tokens", "9", "--seed", "5", real=True).stdout) for _ in range(times)]
    assert records[0]["content"] == records[-1]["content"]
    assert records[0]["usage"]["completion_tokens"] == 9
    assert records[0]["finish_reason"] == "length"


def test_stdout_has_the_content_alone(checkpoint: Path) -> None:
    words = ["chat", str(checkpoint), "-p", "hello", "--no-think", "--max-tokens", "7", "--seed", "2"]
    done = run(*words, real=True)
    content = json.loads(run(*words, "--json", real=True).stdout)["content"]
    assert done.returncode == 0
    assert done.stdout.decode() == (content if content.endswith("\n") else content + "\n")
    assert b"warning: the answer was cut after 7 tokens" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere/at/all", "-p", "hi"], "nowhere"),
        (["{}/config.json", "-p", "hi"], "hint: give its directory"),
        (["{}", "-p", "hello " * 600], "context"),
        (["{}", "-p", "hi", "--threads", "0"], "threads is 0"),
    ],
)
def test_errors_of_the_layers_below_arrive_as_sentences(checkpoint: Path, words: list[str], told: str) -> None:
    done = run("chat", *[word.format(checkpoint) for word in words], real=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith("ingot: ")
    assert told in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_damaged_checkpoint_names_its_file(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = run("chat", str(tmp_path), "-p", "hi", real=True)
    assert done.returncode == 2
    assert "model.safetensors" in done.stderr.decode()
