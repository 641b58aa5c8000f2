"""`ingot chat -p`: the answer alone on stdout, everything else on stderr, and the exit code."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

import ingot
from ingot.cli import main
from tests.cli.run_ingot import command, environment, run
from tests.cli.scripted import CALL, ESCAPES, THOUGHT, load

INTRODUCTION = b"nugget: sums to 999, greetings. A real assistant: ingot chat Qwen/Qwen3.5-0.8B\n"


def test_the_answer_is_alone_on_stdout_and_the_nugget_introduced_on_stderr() -> None:
    done = run("chat", "-p", "What is 17 + 25?")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"42\n", INTRODUCTION)


def test_a_named_model_is_not_introduced(tmp_path: Path) -> None:
    done = run("chat", str(tmp_path), "-p", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"42\n", b"")


@pytest.mark.parametrize("words", [["chat", "-p", "-"], ["chat"], ["chat", "--system", "Be brief."]])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_prompt_comes_from_stdin(words: list[str], end: bytes) -> None:
    done = run(*words, stdin=b"messages" + end)
    system = "system: Be brief. | " if "--system" in words else ""
    assert done.stdout.decode() == f"{system}user: messages\n"


def test_a_given_prompt_leaves_stdin_alone() -> None:
    assert run("chat", "-p", "messages", stdin=b"other").stdout == b"user: messages\n"


def test_reasoning_is_never_on_stdout() -> None:
    done = run("chat", "-p", "hi", "--think")
    assert (done.stdout, done.stderr) == (b"42\n", INTRODUCTION)
    shown = run("chat", "-p", "hi", "--think", "--show-thinking")
    assert shown.stdout == b"42\n"
    assert shown.stderr.decode().removeprefix(INTRODUCTION.decode()).split() == THOUGHT.split()


def test_json_has_everything() -> None:
    record = json.loads(run("chat", "-p", "hi", "--think", "--json").stdout)
    assert (record["model"], record["content"], record["finish_reason"]) == ("nugget", "42", "stop")
    assert record["reasoning"].split() == THOUGHT.split()
    assert record["usage"]["completion_tokens"] == record["usage"]["reasoning_tokens"] + 2
    assert json.loads(run("chat", "-p", "hi", "--json").stdout)["reasoning"] is None


def test_a_file_gets_the_exact_text() -> None:
    assert run("chat", "-p", "escape").stdout.decode() == ESCAPES + "\n"


def test_tool_calls_are_lines_of_json(tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {}}}]))
    done = run("chat", "-p", "weather?", "--tools", str(tools))
    assert json.loads(done.stdout) == CALL["function"]


def test_parameters_reach_the_model_as_they_were_given() -> None:
    words = [
        "--temperature",
        "0.5",
        "--top-k",
        "7",
        "--min-p",
        "0.1",
        "--seed",
        "3",
        "--stop",
        "END",
        "--stop",
        "FIN",
        "--max-tokens",
        "9",
    ]
    expected = {"temperature": 0.5, "top_k": 7, "min_p": 0.1, "seed": 3, "stop": ["END", "FIN"], "max_tokens": 9}
    assert run("chat", "-p", "sampling", *words).stdout.decode().strip() == repr(sorted(expected.items()))
    assert run("chat", "-p", "sampling").stdout.decode().strip() == "[]"
    words = ["--preset", "coding", "--no-repeat-ngram-size", "3", "--min-tokens", "3", "--ignore-eos"]
    words += ["--dry-multiplier", "0.8", "--dry-base", "2", "--dry-allowed-length", "4"]
    words += ["--dry-sequence-breakers", ";", "--logit-bias", "15=-100", "--logit-bias", "16=2.5"]
    expected = {
        "preset": "coding",
        "no_repeat_ngram_size": 3,
        "dry_multiplier": 0.8,
        "dry_base": 2.0,
        "dry_allowed_length": 4,
        "dry_sequence_breakers": [";"],
        "logit_bias": {"15": -100.0, "16": 2.5},
        "min_tokens": 3,
        "ignore_eos": True,
    }
    assert run("chat", "-p", "sampling", *words).stdout.decode().strip() == repr(sorted(expected.items()))
    told = json.loads(run("chat", "-p", "sampling", "--json", "--n", "1", "--top-logprobs", "2").stdout)
    assert told["content"].strip() == repr([("logprobs", True), ("n", 1), ("top_logprobs", 2)])


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("long", "warning: the answer was cut after 2 tokens\nhint: --max-tokens"),
        ("think only", "of thinking\nhint: raise --max-tokens, or use --no-think"),
        ("nothing", "warning: the model ended its turn without an answer"),
    ],
)
def test_an_odd_end_is_told(prompt: str, told: str) -> None:
    done = run("chat", "-p", prompt)
    assert done.returncode == 0
    assert told in done.stderr.decode()


BAD = [
    (["-p", ""], "--prompt is empty"),
    (["-p", "  \n"], "--prompt is empty"),
    ([], "stdin is empty"),
    (["-p", b"\xff\xfe"], "--prompt is not UTF-8 text"),
    (["-p"], "argument -p/--prompt: expected one argument"),
    (["What is 17 + 25?"], "there is no such model\nhint: a prompt comes after -p: ingot chat -p 'What is 17 + 25?'"),
    (["missing", "-p", "hi"], "missing: there is no such directory"),
    (["what", "is", "this"], "'is' is one argument too many\nhint: put a prompt in quotes"),
    (["-p", "hi", "--temperature", "-1"], "temperature is -1.0; it must be from 0 (greedy) to 100"),
    (["-p", "hi", "--temperature", "warm"], "argument --temperature: invalid float value: 'warm'"),
    (["-p", "hi", "--top-p", "0"], "top_p is 0.0; it must be above 0 and at most 1"),
    (["-p", "hi", "--min-p", "1.5"], "min_p is 1.5; it must be from 0 to 1"),
    (["-p", "hi", "--top-k", "-1"], "top_k is -1; it must be an integer, 0 (all) or a positive count"),
    (["-p", "hi", "--presence-penalty", "3"], "presence_penalty is 3.0; it must be from -2 to 2"),
    (["-p", "hi", "--frequency-penalty", "nan"], "frequency_penalty is nan; it must be from -2 to 2"),
    (["-p", "hi", "--repetition-penalty", "0"], "repetition_penalty is 0.0; it must be above 0 and at most 100"),
    (["-p", "hi", "--seed", str(2**64)], f"seed is {2**64}; it must be an integer, a 64-bit integer"),
    (["-p", "hi", "--max-tokens", "0"], "max_tokens is 0; it must be a positive number of tokens"),
    (["-p", "hi", "--stop", ""], "stop is an empty text; it must have at least one character"),
    (["-p", "hi", "--preset", "poetry"], "preset is 'poetry'; there are general, vision, coding, reasoning"),
    (["-p", "hi", "--logit-bias", "15"], "argument --logit-bias: '15' is not a token id, = and a number"),
    (["-p", "hi", "--logit-bias", "a=1"], "logit_bias holds 'a'; its keys are token ids"),
    (["-p", "hi", "--logit-bias", "1=1", "--logit-bias", "1=2"], "logit_bias gives token 1 twice"),
    (["-p", "hi", "--dry-base", "0.5"], "dry_base is 0.5; it must be from 1 to 100"),
    (["-p", "hi", "--no-repeat-ngram-size", "-2"], "no_repeat_ngram_size is -2"),
    (["-p", "hi", "--dry-sequence-breakers", ""], "dry_sequence_breakers is ['']"),
    (["-p", "hi", "--min-tokens", "9", "--max-tokens", "5"], "min_tokens is 9, more than max_tokens, which is 5"),
    (["-p", "hi", "--n", "2"], "--n needs --json"),
    (["-p", "hi", "--top-logprobs", "2"], "--top-logprobs needs --json"),
    (["-p", "hi", "--json", "--n", "1000"], "n is 1000; it must be an integer from 1 to 128"),
    (["-p", "hi", "--json", "--top-logprobs", "30"], "top_logprobs is 30; it must be an integer from 0 to 20"),
    (["-p", "hi", "--backend", "cuda"], "argument --backend: invalid choice: 'cuda'"),
    (["-p", "hi", "--show-thinking", "--hide-thinking"], "not allowed with argument"),
    (["-p", "hi", "--temprature", "1"], "there is no option '--temprature'\nhint: did you mean --temperature?"),
    (["-p", "hi", "--tools", "/no/such.json"], "/no/such.json: No such file or directory"),
    (["-p", "refuse"], "the prompt has 9 tokens; this model's context holds 5"),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=[" ".join(map(str, words)) or "nothing" for words, _ in BAD])
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str | bytes], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ingot, "load", load, raising=False)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    assert main(["chat", *map(os.fsdecode, words)]) == 2
    out, error = capsys.readouterr()
    error = error.removeprefix(INTRODUCTION.decode())
    assert out == ""
    assert error.startswith("ingot: ")
    assert told in error
    assert len(error.splitlines()) <= 2
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[", "is not valid JSON"),
        ("[]", "holds no tools"),
        ('{"name": "f"}', "tools is a dict; it must be a list of function definitions"),
        ('[{"type": "magic"}]', "tools[0].type is 'magic'; it must be 'function'"),
    ],
)
def test_bad_tools_name_their_file(content: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text(content)
    done = run("chat", "-p", "hi", "--tools", str(file))
    assert done.returncode == 2
    assert str(file) in done.stderr.decode()
    assert told in done.stderr.decode()


def test_stdin_that_is_no_text() -> None:
    done = run("chat", "-p", "-", stdin=b"abc\xff")
    assert (done.returncode, done.stderr) == (2, b"ingot: stdin is not UTF-8 text (byte 3)\n")


def test_a_failure_at_run_time_is_exit_code_1_and_debug_shows_where() -> None:
    done = run("chat", "-p", "crash")
    assert done.returncode == 1
    assert b"ingot: RuntimeError: the kernels are on fire\nhint: repeat with --debug" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"in _words" in run("chat", "-p", "crash", "--debug").stderr


def _start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment()
    )


def test_ctrl_c_ends_with_130_and_the_partial_answer_stays() -> None:
    process = _start("chat", "-p", "forever")
    assert process.stdout is not None
    first = process.stdout.read(6)  # it streams: the answer has no end
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert (first + out).startswith(b"0 1 2 ")
    assert (first + out).endswith(b"\n")
    assert err == INTRODUCTION


def test_ctrl_c_with_json_writes_what_there_is() -> None:
    process = _start("chat", "-p", "forever", "--json", "--debug")
    assert process.stderr is not None
    process.stderr.readline()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert json.loads(out)["finish_reason"] == "interrupted"


def test_a_reader_that_leaves_is_no_error() -> None:
    process = _start("chat", "-p", "forever")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(4)
    process.stdout.close()
    assert process.wait(100) == 141
    assert process.stderr.read() == INTRODUCTION
    process.stderr.close()


@pytest.mark.parametrize(
    ("closed", "told"), [(">&-", b"ingot: stdout is closed"), ("<&-", b"ingot: stdin is empty"), ("2>&-", b"")]
)
def test_closed_streams_are_no_traceback(closed: str, told: bytes) -> None:
    line = " ".join(f"'{word}'" for word in command("chat"))
    done = subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, env=environment(), timeout=200)
    assert done.returncode != 0
    assert done.stderr.startswith(told)
    assert b"Traceback" not in done.stderr
