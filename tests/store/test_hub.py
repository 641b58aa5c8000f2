"""From the name of a model to its directory: paths, hub ids, and what is said when neither leads anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingot.store import open_checkpoint, resolve
from tests.store.store_files import make_checkpoint, shard

ID = "acme/tiny-model"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty Hugging Face cache, offline, and an empty directory to stand in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_in_cache(cache: Path, name: str = ID) -> Path:
    """A snapshot as the hub's client lays it out."""
    repo, commit = cache / f"models--{name.replace('/', '--')}", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    return make_checkpoint(repo / "snapshots" / commit)


def test_an_existing_directory_wins(cache):
    put_in_cache(cache)
    Path(ID).mkdir(parents=True)
    assert resolve(ID) == Path(ID)
    assert resolve(Path(ID)) == Path(ID)


def test_the_home_directory_is_understood(cache, monkeypatch):
    monkeypatch.setenv("HOME", str(cache.parent))
    monkeypatch.setenv("USERPROFILE", str(cache.parent))
    assert resolve("~/here") == cache.parent / "here"


def test_an_id_in_the_cache_needs_no_network(cache):
    snapshot = put_in_cache(cache)
    assert resolve(ID).samefile(snapshot)
    assert open_checkpoint(resolve(ID)).has_mtp


def test_an_id_in_the_cache_is_found_though_a_directory_has_its_first_name(cache):
    snapshot = put_in_cache(cache)
    Path("acme").mkdir()
    assert resolve(ID).samefile(snapshot)


def test_an_unfinished_snapshot_is_not_taken(cache):
    snapshot = put_in_cache(cache)
    shard(snapshot)
    assert resolve(ID).samefile(snapshot)
    (snapshot / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="is not in the cache"):
        resolve(ID)


def test_a_snapshot_without_what_nobody_needs_is_whole(cache):
    """The hub's client keeps a list of a repository's files, and takes a snapshot without its README for a part."""
    snapshot = put_in_cache(cache)
    trees = snapshot.parents[1] / "trees"
    trees.mkdir()
    (trees / f"{snapshot.name}.json").write_text(json.dumps({"README.md": {"size": 3, "blob_id": "b" * 40}}))
    assert resolve(ID).samefile(snapshot)


def test_offline_is_one_sentence_with_what_was_tried(cache):
    with pytest.raises(FileNotFoundError) as caught:
        resolve(ID)
    assert str(caught.value) == (
        f"model 'acme/tiny-model' is not in the cache {cache}, and HF_HUB_OFFLINE forbids a download\n"
        "hint: HF_HUB_OFFLINE=0 allows it; or run `ingot pull acme/tiny-model` on a machine with a network, "
        "copy the directory that it prints (`cp -rL`: it holds links), and give its path"
    )


def test_a_download_that_fails_says_why_and_how_to_go_on(cache, monkeypatch):
    def plan_pull(model):
        raise OSError("the disk is full")

    monkeypatch.setattr("ingot.store.pull.plan_pull", plan_pull)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(FileNotFoundError) as caught:
        resolve(ID)
    sentence = "and downloading it failed: the disk is full\nhint: `ingot pull acme/tiny-model` tries again"
    assert sentence in str(caught.value)


def tree(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(json.dumps(name))


NEAR = ("models/qwen-small/", "models/qwen-large/", "models/notes.txt")
MISSING = [
    ("models/qwen-smal", NEAR, "hint: did you mean models/qwen-small"),
    ("modles/qwen-small", NEAR, "model 'modles/qwen-small' is not in the cache"),
    ("modles/qwen-smal", NEAR, "hint: did you mean the directory models/qwen-small?"),
    ("./modles/qwen-small", NEAR, "hint: did you mean models?"),
    ("models/other", NEAR, "hint: models holds notes.txt, qwen-large, qwen-small"),
    ("models/a/b/c", NEAR, "models/a/b/c: there is no such directory"),
    ("/nowhere/at/all", (), "/nowhere/at/all: there is no such directory"),
    (
        "nothing",
        (),
        "nothing: there is no such directory, and it is not the id of a model in the cache\nhint: . is empty",
    ),
    ("Qwen3.5-0.8B", (), "hint: did you mean the hub id 'Qwen/Qwen3.5-0.8B'?"),
    ("qwen3.5-4b", (), "hint: did you mean the hub id 'Qwen/Qwen3.5-4B'?"),
    ("a/b/c", (), "a/b/c: there is no such directory"),
    ("org/na me", (), "org/na me: there is no such directory"),
    ("../org/name/", (), "no such directory"),
    ("org/name--x", (), "no such directory"),
    ("a" * 60 + "/" + "b" * 60, (), "no such directory"),
    ("gone/model.safetensors", (), "gone/model.safetensors: there is no such"),
    ("x.gguf", ("y.gguf",), "hint: did you mean y.gguf?"),
]


@pytest.mark.parametrize(("name", "files", "sentence"), MISSING, ids=[row[0] for row in MISSING])
def test_what_is_not_there_is_answered_with_what_is_near(cache, name, files, sentence):
    tree(*files)
    with pytest.raises(FileNotFoundError) as caught:
        resolve(name)
    assert sentence in str(caught.value)


FILES = [
    ("m/model.safetensors", ("m/model.safetensors", "m/config.json"), "\nhint: give its directory, m"),
    ("m/model.safetensors", ("m/model.safetensors",), "m/model.safetensors: is a file; a checkpoint is a directory"),
    ("m/model.bin", ("m/model.bin", "m/config.json"), "m/model.bin: is a PyTorch pickle, which can run code when read"),
    ("README", ("README",), "README: is a file; a checkpoint is a directory"),
    ("Tell me a story. " * 40, (), "which cannot be a path: File name too long"),
    ("nul\0byte", (), "which cannot be a path"),
    ("", (), "model is empty; a directory or a hub id such as"),
]


@pytest.mark.parametrize(("name", "files", "sentence"), FILES)
def test_a_file_is_not_a_checkpoint(cache, name, files, sentence):
    tree(*files)
    with pytest.raises(ValueError) as caught:
        resolve(name)
    assert sentence in str(caught.value)


def test_looking_at_a_directory_imports_no_hub_client():
    import os
    import subprocess
    import sys

    import ingot

    code = "import sys, ingot.store as s; s.resolve('.'); print('huggingface_hub' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr
