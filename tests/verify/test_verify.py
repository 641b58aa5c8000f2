"""`ingot verify` on right checkpoints, and on checkpoints broken in one way each, which the right check finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ingot.cli import main
from ingot.loading import nugget_path
from ingot.prompt import Tokenizer
from ingot.store import tensor_of
from ingot.verify import numbers, verify
from ingot.verify.check import FAIL, OK, SKIP
from ingot.verify.samples import picture
from ingot.verify.subject import Subject
from tests.prompt.official import TEMPLATES
from tests.store.store_files import read_all, rewrite


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    pytest.importorskip("transformers")
    from tests.model.checkpoints import save_seeing_checkpoint

    return save_seeing_checkpoint(tmp_path_factory.mktemp("seeing"), 5)


@pytest.fixture(scope="module")
def nugget(tmp_path_factory):
    place = tmp_path_factory.mktemp("nugget") / "copy"
    return shutil.copytree(nugget_path(), place, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def copy(nugget, tmp_path):
    return shutil.copytree(nugget, tmp_path / "broken")


def states(path: Path, **options) -> dict[str, str]:
    return {check.name: check.state for check in verify(path, **options)}


def found(path: Path, name: str, **options):
    return next(check for check in verify(path, **options) if check.name == name)


def test_the_nugget_is_right(nugget, capsys):
    assert main(["verify", str(nugget)]) == 0
    shown = capsys.readouterr().out
    assert "ok   identities     decode == prefill, cut otherwise, 1 == 2 threads" in shown
    assert "skip pictures" in shown
    assert shown.endswith("12 checks, all right, 1 left out.\n")


def test_digests_are_the_same_whoever_computes_them(nugget):
    """The figure that people compare: fixed here, for the bundled model. Another numerics version changes it."""
    first, second = (found(nugget, "q8", quick=True).data["digest"] for _ in range(2))
    assert first == second
    assert len(set(first.values())) == 6
    subject = Subject(nugget)
    model = subject.model("q8")
    from ingot.engine import Engine
    from ingot.ops.native import OpSet

    alone = Engine(model.engine.root, OpSet(threads=1, isa="scalar"), model.config, model.engine.vocabulary)
    ids = subject.prompts(model)["ids"].ids
    assert numbers.digest(subject.vocabulary(alone.logits(ids))) == first["ids"]


def test_a_checkpoint_with_eyes_is_right(seeing):
    checks = {check.name: check for check in verify(seeing, quick=True)}
    assert {check.state for name, check in checks.items() if name != "weights"} == {OK}
    assert checks["weights"].state == SKIP
    assert len(checks["pictures"].data["digest"]) == 2
    assert checks["q8"].data["rows"] == 16 * 8
    assert 0 < checks["q8"].data["mean_kl"] < checks["q4"].data["mean_kl"]
    assert checks["template"].data["official"] == "Qwen3.5 0.8B and 2B"


def test_against_transformers(seeing):
    check = found(seeing, "against", quick=True, other="transformers")
    assert check.state == OK, check.text
    assert len(check.data["of_scale"]) == 8
    assert max(check.data["of_scale"].values()) < 1e-4
    assert set(check.data["agreement"].values()) == {1.0}


def test_against_transformers_finds_another_model(seeing, monkeypatch):
    """Ingot's logits with one norm that multiplies by w instead of 1 + w."""
    original = numbers.LanguageModel.logits

    def wrong(self, prompt, chunk=None):
        return original(self, prompt, chunk) * np.float32(1.01)

    monkeypatch.setattr(numbers.LanguageModel, "logits", wrong)
    check = found(seeing, "against", quick=True, other="transformers")
    assert check.state == FAIL
    assert "of scale at most" in check.text
    assert "2e-03 is allowed" in check.text


def test_json_is_one_object_that_tells_where_it_ran(nugget, capsys):
    assert main(["verify", str(nugget), "--quick", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["ok"] is True
    assert record["machine"]["kernels"]["isa"]
    assert record["machine"]["ingot"]["version"]
    by_name = {check["name"]: check for check in record["checks"]}
    assert len(by_name["files"]["data"]["files"]["model.safetensors"]["sha256"]) == 64
    assert by_name["logits"]["data"]["weights"] == "bf16"
    assert by_name["speed"]["data"]["decode"] > 0
    assert set(by_name["logits"]) == {"name", "state", "text", "data", "seconds"}


# -- broken in one way


def in_hub_cache(path: Path, place: Path) -> Path:
    """The same files as the hub's cache has them: links to bytes that are named by their digests."""
    from tests.store.hub_server import git_id, sha256

    snapshot = place / "models--a--b" / "snapshots" / ("c" * 40)
    blobs = place / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in path.iterdir():
        data = file.read_bytes()
        blob = blobs / (sha256(data) if file.suffix == ".safetensors" else git_id(data))
        blob.write_bytes(data)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def test_a_flipped_bit_in_a_file_of_the_cache(copy, tmp_path):
    snapshot = in_hub_cache(copy, tmp_path / "hub")
    check = found(snapshot, "files", quick=True)
    assert (check.state, "equal to the hub's digests" in check.text) == (OK, True)
    blob = (snapshot / "model.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-1000] ^= 1
    blob.write_bytes(data)
    checks = {check.name: check for check in verify(snapshot, quick=True)}
    assert checks["files"].state == FAIL
    assert checks["files"].text == "model.safetensors: not the bytes that the hub gave"
    assert checks["identities"].state == OK  # one failure does not hide what is right


def poison(path: Path) -> None:
    def change(tensors):
        name = next(name for name in tensors if name.endswith("2.mlp.down_proj.weight"))
        values = tensors[name].float32()
        values[3, 5] = np.nan
        tensors[name] = tensor_of(values, tensors[name].dtype)

    rewrite(path, change)


def test_a_weight_that_is_no_number(copy):
    poison(copy)
    checks = {check.name: check for check in verify(copy)}
    assert checks["weights"].state == FAIL
    assert "holds nan at [3, 5]; weights must be finite" in checks["weights"].text
    assert {checks[name].state for name in ("files", "configuration", "tokenizer", "template")} == {OK}
    assert checks["logits"].state == FAIL  # the first that needs the model says why, the others that they need it
    assert (checks["identities"].state, checks["identities"].text) == (SKIP, "needs the model as bf16")


def test_a_missing_tensor(copy):
    rewrite(copy, lambda tensors: tensors.pop(next(name for name in tensors if name.endswith("1.mlp.up_proj.weight"))))
    checks = {check.name: check for check in verify(copy, quick=True)}
    assert checks["configuration"].state == FAIL
    assert "of the text model is missing" in checks["configuration"].text
    assert checks["logits"].text == "needs the weights"
    assert checks["template"].state == OK


WRONG_TEMPLATES = {
    "drops a turn": ("{%- for message in messages %}", "{%- for message in messages[1:] %}"),
    "loses the newline": ("'<|im_start|>' + message.role + '\\n'", "'<|im_start|>' + message.role"),
    "always thinks": ("enable_thinking is defined and enable_thinking is true", "true"),
    "loses arguments": ("{{- args_value }}", "{{- args_name }}"),
    "forgets results": ("{{- '\\n<tool_response>\\n' }}\n        {{- content }}", "{{- '\\n<tool_response>\\n' }}"),
}


@pytest.mark.parametrize("change", WRONG_TEMPLATES)
def test_a_wrong_template(copy, change):
    before, after = WRONG_TEMPLATES[change]
    source = TEMPLATES["0.8B_2B"]
    (copy / "chat_template.jinja").write_text(source)
    assert found(copy, "template", quick=True).state == OK
    assert before in source, "the change would change nothing"
    (copy / "chat_template.jinja").write_text(source.replace(before, after))
    assert found(copy, "template", quick=True).state == FAIL


@pytest.mark.parametrize(
    "source", ["{{ messages[5].content }}", "{% for %}", "[INST] {{ messages[0].content }} [/INST]"]
)
def test_a_template_that_is_another_model_s(copy, source):
    (copy / "chat_template.jinja").write_text(source)
    checks = states(copy, quick=True)
    assert checks["template"] == FAIL
    assert {checks[name] for name in ("tokenizer", "logits", "identities", "q8", "q4")} == {OK}


def test_a_tokenizer_that_changes_texts(copy):
    raw = json.loads((copy / "tokenizer.json").read_text())
    raw["normalizer"] = {"type": "Lowercase"}
    (copy / "tokenizer.json").write_text(json.dumps(raw))
    check = found(copy, "tokenizer", quick=True)
    assert check.state == FAIL
    assert "has the normalizer 'Lowercase'" in check.text


def test_a_tokenizer_that_does_not_give_back(copy, monkeypatch):
    whole = Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda *args, **kwargs: whole(*args, **kwargs).lower())
    check = found(copy, "tokenizer", quick=True)
    assert check.state == FAIL
    assert check.text.startswith("'The lighthouse keeper counted the ships ")
    assert " comes back as 'the lighthouse keeper " in check.text


def test_the_official_vocabulary_has_known_ids(monkeypatch):
    """Ours of the official merges has other ids, which the known ones find; with official ids it is right."""
    from ingot.verify import words
    from tests.prompt.official import official_id, tokenizer

    known = {text: [official_id(index) for index in tokenizer().encode(text)] for text in words.KNOWN}
    for text, ids in words.KNOWN.items():
        assert [low for low, _ in known[text]] == ids == [high for _, high in known[text]], text

    class Official:
        vocab_size = words.OFFICIAL_SIZE

        def __getattr__(self, name):
            return getattr(tokenizer(), name)

        def token_id(self, token):
            return words.IM_END if token == "<|im_end|>" else tokenizer().token_id(token)

        def encode(self, text):
            return [words.IM_END] if text == "<|im_end|>" else tokenizer().encode(text)

    subject = Subject(Path())
    subject.tokenizer = Official()
    with pytest.raises(Exception, match="the official vocabulary has"):
        words.tokenizer(subject)


def test_a_format_that_breaks_instead_of_rounding(copy, monkeypatch):
    subject = Subject(copy, quick=True)
    numbers.logits(subject)
    subject.rows = {name: -rows for name, rows in subject.rows.items()}
    with pytest.raises(Exception, match="not rounding, but another model"):
        numbers.divergence(subject, "q8")


def test_identities_are_looked_at(nugget, monkeypatch):
    """State that leaks from one pass into the next is found."""
    original = numbers.LanguageModel.logits

    def leaking(self, prompt, chunk=None):
        made = original(self, prompt, chunk)
        if chunk == 1:
            made[7:] += np.float32(1e-6)
        return made

    monkeypatch.setattr(numbers.LanguageModel, "logits", leaking)
    check = found(nugget, "identities", quick=True)
    assert (check.state, check.data["token"]) == (FAIL, 7)
    assert check.text.endswith("token by token: other logits from token 7 on")


def test_kl_is_the_divergence():
    base = np.array([0.0, 1.0, 2.0], np.float32)
    p = np.exp(base) / np.exp(base).sum()
    q = np.ones(3) / 3
    assert numbers.divergence_of(base, np.zeros(3, np.float32)) == pytest.approx(float((p * np.log(p / q)).sum()))
    assert numbers.divergence_of(base, base + 5) == pytest.approx(0, abs=1e-12)


def test_pictures_are_drawn_alike_everywhere():
    """By whole numbers alone; a change would make old digests incomparable."""
    from tests.store.hub_server import sha256

    assert picture(160, 224).shape == (160, 224, 3)
    assert sha256(picture(160, 224).tobytes())[:16] == "2f9ceabd23762745"
    assert sha256(picture(97, 61).tobytes())[:16] == "210a3b473d633282"


def test_little_memory_leaves_the_numbers_out(nugget, monkeypatch):
    monkeypatch.setattr("ingot.verify.subject.available", lambda: 1 << 20)
    checks = {check.name: check for check in verify(nugget, quick=True)}
    assert checks["logits"].state == SKIP
    assert "GiB, and 0.0 GiB are free" in checks["logits"].text
    assert FAIL not in {check.state for check in checks.values()}


def test_what_it_needs_is_said(nugget, capsys, monkeypatch):
    assert main(["verify", str(nugget), "--against", "llama"]) == 2
    assert "invalid choice: 'llama'" in capsys.readouterr().err
    assert main(["verify", "nowhere/at/all"]) == 2
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["verify", str(nugget), "--against", "transformers"]) == 2
    sentence = "--against is 'transformers', but torch and transformers cannot be imported here\nhint: pip install"
    assert sentence in capsys.readouterr().err


def test_a_failure_is_the_exit_code(copy, capsys):
    (copy / "chat_template.jinja").write_text("nothing")
    assert main(["verify", str(copy), "--quick"]) == 1
    shown = capsys.readouterr().out
    assert "FAIL template " in shown
    assert "1 of " in shown
    assert "checks failed: template" in shown


def test_a_whole_copy_has_the_same_digests(nugget, copy):
    assert read_all(copy / "model.safetensors").keys() == read_all(nugget / "model.safetensors").keys()
    one, two = (found(path, "logits", quick=True).data["digest"] for path in (nugget, copy))
    assert one == two
