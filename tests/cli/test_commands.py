"""`ingot` itself: first steps, help, version, unknown words, and a light start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ingot
from ingot.cli import COMMANDS, main
from tests.cli.run_ingot import environment, run


def test_without_words_it_shows_the_first_command_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert 'ingot chat -p "What is 17 + 25?"' in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ingot {ingot.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(name in out and what in out for name, what in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    plain = capsys.readouterr().out
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == plain
    assert f"usage: ingot {name}" in plain
    assert "--debug" in plain


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["chatt"], "ingot: there is no command 'chatt'\nhint: did you mean chat?"),
        (["frobnicate"], "ingot: there is no command 'frobnicate'\nhint: ingot --help lists them"),
        (["--versoin"], "ingot: there is no option '--versoin'\nhint: did you mean --version?"),
        (["doctor", "--jsno"], "ingot: there is no option '--jsno'\nhint: did you mean --json?"),
        (["doctor", "--js"], "ingot: there is no option '--js'"),
        (["doctor", "now"], "ingot: 'now' is one argument too many"),
        (["chat", "--threads", "two"], "ingot: argument --threads: invalid int value: 'two'"),
    ],
)
def test_unknown_words_get_a_sentence_and_a_near_miss(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(expected)
    assert captured.out == ""


@pytest.mark.parametrize("words", ["main(['--help'])", "main(['--version'])", "main([])", "main(['chat', '--help'])"])
def test_the_start_imports_nothing_heavy(words: str) -> None:
    heavy = ("numpy", "tokenizers", "jinja2", "prompt_toolkit", "rich", "torch", "huggingface_hub", "ingot._native")
    code = f"import sys; from ingot.cli import main; {words}; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_one_answer_needs_neither_line_editing_nor_torch() -> None:
    code = (
        "import sys, ingot; from tests.cli import scripted; ingot.load = scripted.load; from ingot.cli import main; "
        "main(['chat', '-p', 'hi']); "
        "print([m for m in ('prompt_toolkit', 'rich', 'torch', 'transformers') if m in sys.modules])"
    )
    here, root = environment(), str(Path(__file__).parents[2])
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=here, check=True, cwd=root)
    assert out.stdout == "42\n[]\n"


def test_python_dash_m_runs_it() -> None:
    assert run("--version", real=True).stdout.decode() == f"ingot {ingot.__version__}\n"
