"""Models from a hub: only what is needed, resumed, compared with its checksums; and what is said when it goes wrong."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from ingot.cli import main
from ingot.store import open_checkpoint, resolve
from ingot.store.pull import plan_pull, pull
from tests.cli.run_ingot import environment
from tests.store.hub_server import COMMIT, Hub, serving, sha256
from tests.store.store_files import make_checkpoint, shard

ID = "acme/tiny-model"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = make_checkpoint(tmp_path_factory.mktemp("made"))
    (directory / "tokenizer.json").write_text('{"large": "enough"}')
    (directory / "chat_template.jinja").write_text("hello")
    return directory


@pytest.fixture
def hub(made, tmp_path, monkeypatch):
    """A served hub with the checkpoint and things that nobody needs, and an empty cache."""
    hub = Hub(ID)
    hub.add(made)
    hub.files |= {"README.md": b"read me", "pytorch_model.bin": b"x", "vocab.json": b"{}", "merges.txt": b"a b"}
    hub.files |= {"consolidated.safetensors": b"y", "original/model.safetensors": b"z"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # this hub is here
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    with serving(hub) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        for module in ("constants", "file_download"):
            monkeypatch.setattr(
                f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE",
                address + "/{repo_id}/resolve/{revision}/{filename}",
                raising=False,
            )
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        yield hub


def names(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


NEEDED = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}


def test_what_is_needed_comes_and_nothing_else(hub, made):
    path = pull(plan_pull(ID))
    assert names(path) == NEEDED
    assert all((path / name).read_bytes() == (made / name).read_bytes() for name in NEEDED)


def test_chat_finds_it_without_a_network(hub, monkeypatch):
    path = pull(plan_pull(ID))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve(ID).samefile(path)
    assert open_checkpoint(resolve(ID)).has_vision


def test_other_tools_find_it_in_their_cache(hub):
    path = pull(plan_pull(ID))
    found = huggingface_hub.try_to_load_from_cache(ID, "model.safetensors")
    assert Path(str(found)).samefile(path / "model.safetensors")
    assert huggingface_hub.scan_cache_dir().repos


def test_what_is_here_is_not_fetched_again(hub):
    pull(plan_pull(ID))
    before = len(hub.fetched("model.safetensors"))
    again = plan_pull(ID)
    assert (again.missing, again.to_fetch) == ((), 0)
    pull(again)
    assert len(hub.fetched("model.safetensors")) == before == 1


def test_a_tokenizer_without_its_json_needs_its_other_files(hub):
    del hub.files["tokenizer.json"]
    assert {"vocab.json", "merges.txt"} <= names(pull(plan_pull(ID)))


def test_shards_are_those_of_the_index(hub, made, tmp_path):
    copy = shutil.copytree(made, tmp_path / "copy")
    shard(copy, ("one.safetensors", "two.safetensors"))
    single = hub.files.pop("model.safetensors")
    hub.add(copy)
    hub.files["model.safetensors"] = single  # the same weights a second time
    path = pull(plan_pull(ID))
    assert {"one.safetensors", "two.safetensors", "model.safetensors.index.json"} <= names(path)
    assert "model.safetensors" not in names(path)
    open_checkpoint(path)


def test_a_token_is_for_the_hub_and_not_for_its_store(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull(plan_pull(ID))
    tokens = {(path.startswith("/store/"), token) for _, path, _, token in hub.requests}
    assert tokens == {(True, None), (False, "Bearer hf_secret")}


def test_a_broken_connection_is_taken_up_at_once(hub, made):
    hub.cut["model.safetensors"] = [1000, 500]
    path = pull(plan_pull(ID))
    assert hub.fetched("model.safetensors") == [None, "bytes=1000-", "bytes=1500-"]
    assert (path / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


def test_the_next_pull_goes_on_where_the_last_one_was_cut(hub, made):
    hub.cut["model.safetensors"] = [1000] + [0] * 20
    with pytest.raises(ConnectionError, match="what has come is kept, and the same command goes on"):
        pull(plan_pull(ID), lambda done, total: None)
    hub.cut.clear()
    hub.requests.clear()
    plan = plan_pull(ID)
    size = len(hub.files["model.safetensors"])
    assert plan.to_fetch == size - 1000 + sum(file.nbytes for file in plan.missing if file.name != "model.safetensors")
    path = pull(plan)
    assert hub.fetched("model.safetensors") == ["bytes=1000-"]
    assert (path / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


def test_an_interrupt_keeps_what_has_come(hub):
    def interrupt(done, total):
        if done > 60_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(plan_pull(ID), interrupt)
    assert not (plan_pull(ID).snapshot / "model.safetensors").exists()
    pull(plan_pull(ID))
    assert resolve(ID)


def test_ctrl_c_says_that_it_goes_on(hub, monkeypatch, capsys):
    def interrupt(self, done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr("ingot.cli.progress.Progress.at_bytes", interrupt)
    assert main(["pull", ID]) == 130
    assert "stopped; what has come is kept, and the same command goes on" in capsys.readouterr().err


def test_a_stream_that_ends_early_is_the_networks_fault(hub, monkeypatch):
    def short(url, file, **options):
        raise OSError("Consistency check failed: file should be of size 5 but has size 3.\nPlease retry")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", short)
    with pytest.raises(ConnectionError, match=r"Consistency check failed: .* size 3\.\nhint: check the network"):
        pull(plan_pull(ID))


def test_until_it_is_whole_the_cache_does_not_have_it(hub, monkeypatch):
    hub.cut["model.safetensors"] = [1000] + [0] * 20
    with pytest.raises(ConnectionError):
        pull(plan_pull(ID))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=f"run `ingot pull {ID}` on a machine with a network"):
        resolve(ID)


def test_what_a_chat_needs_is_fetched_when_it_is_not_here(hub):
    path = resolve(ID)
    assert names(path) == NEEDED
    (path / "config.json").unlink()
    assert resolve(ID).samefile(path)
    assert names(path) == NEEDED


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_checksum_is_no_download(hub, name):
    right = hub.files[name]
    hub.wrong[name] = right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(OSError, match=rf"^{name}: what came has not the hub's checksum, and was removed\nhint: "):
        pull(plan_pull(ID))
    hub.wrong.clear()
    assert (pull(plan_pull(ID)) / name).read_bytes() == right


def test_a_beginning_that_is_longer_than_the_file_is_dropped(hub, tmp_path):
    plan = plan_pull(ID)
    data = hub.files["model.safetensors"]
    blobs = plan.snapshot.parents[1] / "blobs"
    (blobs / f"{sha256(data)}.incomplete").write_bytes(data + b"more")
    assert (pull(plan) / "model.safetensors").read_bytes() == data


def test_progress_ends_at_the_whole(hub):
    told = []
    plan = plan_pull(ID)
    pull(plan, lambda done, total: told.append((done, total)))
    assert told[-1] == (plan.to_fetch, plan.to_fetch)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def gguf_only(hub: Hub) -> None:
    hub.files.clear()
    hub.files |= {"README.md": b"x", "m-Q4_K_M.gguf": b"GGUF" * 9, "m-BF16-00001-of-00002.gguf": b"GGUF" * 8}
    hub.files |= {"m-BF16-00002-of-00002.gguf": b"GGUF" * 7, "m-F32-00001-of-00002.gguf": b"no"}


def test_gguf_files_are_chosen_by_name(hub):
    gguf_only(hub)
    assert names(pull(plan_pull(ID, files=["m-Q4_K_M.gguf"]))) == {"m-Q4_K_M.gguf"}
    parts = {"m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf"}
    assert {file.name for file in plan_pull(ID, files=["m-BF16-00002-of-00002.gguf"]).files} == parts


def without(*names: str):
    return lambda hub: [hub.files.pop(name) for name in names]


def sets(**values):
    return lambda hub: [setattr(hub, name, value) for name, value in values.items()]


def foreign(hub: Hub) -> None:
    hub.files["config.json"] = b'{"model_type": "llama"}'


def forgetful(hub: Hub) -> None:
    index = {"weight_map": {"x": "gone.safetensors"}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()


def lying(hub: Hub) -> None:
    hub.listing = lambda: {"id": ID, "sha": "../../x", "siblings": []}


REFUSED = [
    ("gated", sets(gated=True), [ID], 2, "is gated: its files are for those who accepted its conditions\nhint: accept"),
    ("private", sets(private=True), [ID], 2, "hint: check the name; a private model needs `hf auth login` or HF_TOKEN"),
    ("missing", None, ["acme/tini-model"], 2, "model 'acme/tini-model' is not at http://127.0.0.1"),
    ("revision", None, [ID, "--revision", "v9"], 2, f"model '{ID}' has no revision 'v9'\nhint: its branches"),
    ("forbidden", sets(status=403), [ID], 2, f"refuses model '{ID}' to this user (HTTP 403)\nhint: `hf auth login`"),
    ("unwell", sets(status=418), [ID], 1, "answers HTTP 418 for model 'acme/tiny-model'\nhint: try again later"),
    ("path", None, ["./models/mine"], 2, "the id of a model on the hub looks like Qwen/Qwen3.5-0.8B"),
    ("one word", None, ["Qwen3.5-0.8B"], 2, "ORG/NAME is 'Qwen3.5-0.8B'"),
    ("architecture", foreign, [ID], 2, "config.json: model_type is 'llama'; Ingot runs the dense 'qwen3_5'"),
    ("no config", without("config.json"), [ID], 2, "has no config.json at main, which tells its sizes"),
    ("pickles", without("model.safetensors", "consolidated.safetensors"), [ID], 2, "has no *.safetensors files at m"),
    ("gguf", gguf_only, [ID], 2, "each a model of its own\nhint: choose with --file: m-Q4_K_M.gguf (36 B), m-BF16-"),
    ("file", gguf_only, [ID, "--file", "m-Q4.gguf"], 2, "has no file 'm-Q4.gguf' at main\nhint: did you mean m-Q4_K"),
    ("index", forgetful, [ID], 2, "has no gone.safetensors at main, which its model.safetensors.index.json names"),
    ("commit", lying, [ID], 2, "is at commit '../../x', which is no commit id"),
]


@pytest.mark.parametrize(("change", "words", "code", "sentence"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refusals_are_one_sentence(hub, capsys, change, words, code, sentence):
    if change is not None:
        change(hub)
    assert main(["pull", *words]) == code
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.out == ""
    assert len(shown.err.split("hint:")[0].strip().splitlines()) == 1


def test_no_network_is_one_sentence(hub, monkeypatch, capsys):
    for place in ("constants.ENDPOINT", "hf_api.api.endpoint"):
        monkeypatch.setattr(f"huggingface_hub.{place}", "http://127.0.0.1:9")
    assert main(["pull", ID]) == 1
    assert "the connection to http://127.0.0.1:9 failed: " in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_told_before(hub, monkeypatch, capsys):
    monkeypatch.setattr("ingot.store.pull.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 7000))
    assert main(["pull", ID]) == 1
    assert (
        "are to come, and the disk has 7000 B left\nhint: HF_HUB_CACHE names another place" in capsys.readouterr().err
    )
    assert hub.fetched("model.safetensors") == []


def test_a_disk_that_fills_up_meanwhile(hub, monkeypatch, capsys):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert main(["pull", ID]) == 1
    assert ": the disk is full\nhint: HF_HUB_CACHE names another place" in capsys.readouterr().err


def test_the_command_says_sizes_before_and_the_place_after(hub, capsys):
    assert main(["pull", ID, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert f"{ID} (main, {COMMIT[:7]}): 4 files, " in shown.err
    assert "to fetch: " in shown.err
    assert " free)" in shown.err
    assert shown.out == ""
    assert hub.fetched("model.safetensors") == []
    assert main(["pull", ID]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert names(path) == NEEDED
    assert main(["pull", ID]) == 0
    assert "all of it is here" in capsys.readouterr().err


def test_a_file_damaged_on_the_disk_is_found_and_fetched_again(hub, capsys, monkeypatch):
    path = pull(plan_pull(ID))
    right = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").resolve().write_bytes(right[:-9] + b"x" + right[-8:])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["pull", ID, "--check"]) == 1
    assert f"{path / 'model.safetensors'}: is damaged\nhint: with a network" in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert main(["pull", ID, "--check"]) == 0
    assert "model.safetensors: is damaged; it is fetched again" in capsys.readouterr().err
    assert (path / "model.safetensors").read_bytes() == right
    assert main(["pull", ID, "--check"]) == 0
    assert "4 of 4 files are here, and right" in capsys.readouterr().err


def test_offline_it_says_what_is_here(hub, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["pull", ID]) == 2
    assert "is not in the cache, and HF_HUB_OFFLINE forbids a download" in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    path = pull(plan_pull(ID))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["pull", ID, "--check"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["pull", ID, "--file", "other.gguf"]) == 2
    assert f"other.gguf of {ID} is not in the cache" in capsys.readouterr().err
    (path / "model.safetensors").unlink()
    assert main(["pull", ID]) == 2
    assert f"model '{ID}' at main, all of it, is not in the cache" in capsys.readouterr().err


def test_a_small_file_damaged_on_the_disk_is_fetched_again(hub):
    path = pull(plan_pull(ID))
    (path / "config.json").resolve().write_text("{")
    assert pull(plan_pull(ID)) == path
    assert (path / "config.json").read_bytes() == hub.files["config.json"]


def test_in_a_process_of_its_own(hub, tmp_path):
    """As a user has it: by HF_ENDPOINT and HF_HOME, and a chat that fetches what is not there."""
    env = environment(HF_ENDPOINT=huggingface_hub.constants.ENDPOINT, HF_HOME=str(tmp_path / "home"))
    words = [sys.executable, "-m", "ingot.cli"]
    done = subprocess.run([*words, "pull", ID], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert names(Path(done.stdout.strip())) == NEEDED
    assert "UserWarning" not in done.stderr
    assert "%|" not in done.stderr
