"""`ingot chat` at a terminal, driven through a pseudo-terminal."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are Unix", allow_module_level=True)

from ingot.answer import Usage
from ingot.cli.answer import Answer
from ingot.cli.screen import summary_line
from tests.cli.pty_session import PROMPT, Chat
from tests.cli.scripted import THOUGHT

CTRL_C, CTRL_D, ESC_ENTER = "\x03", "\x04", "\x1b\r"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}


def test_a_conversation(home: dict[str, str]) -> None:
    with Chat("--system", "Be brief.", **home) as chat:
        start = chat.wait(PROMPT)
        assert "nugget: sums to 999" in start
        assert "Ingot 0.1.0 · nugget · 752M parameters · reference" in start
        assert "42\n2 tokens, 50.0 tokens/s · read 4 in 0.00 s" in chat.say("What is")
        assert "system: Be brief. | user: What is | assistant: 42 | user: messages" in chat.say("messages")
        assert "a new conversation with the same system message" in chat.say("/new")
        assert "\nsystem: Be brief. | user: messages\n" in chat.say("messages")
        chat.type(CTRL_D)
        assert chat.leave() == 0


def test_lines_and_pasted_lines_are_one_message(home: dict[str, str]) -> None:
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        chat.type("one" + ESC_ENTER)
        chat.wait("one\n·")
        chat.type("two\r")
        chat.wait("42")
        chat.wait(PROMPT)
        chat.type("\x1b[200~three\nfour\x1b[201~\r")
        chat.wait("42")
        chat.wait(PROMPT)
        assert "user: one\ntwo | assistant: 42 | user: three\nfour |" in chat.say("messages").replace("\n\n", "\n")


def test_thinking_folds_and_can_be_read_again(home: dict[str, str]) -> None:
    with Chat("--think", **home) as chat:
        chat.wait(PROMPT)
        shown = chat.say("add")
        assert "│ I add the ones" in shown
        assert "thought for " in shown
        assert f"s, {len(THOUGHT.split(' '))} tokens\n42\n" in shown
        assert "thinking: off" in chat.say("/think off")
        assert "thought" not in chat.say("add")
        assert "the last answer came without thinking" in chat.say("/thoughts")
        assert "thinking: auto" in chat.say("/think auto")
        assert "thinking: on" in chat.say("/think on")
        assert "left on the screen" in chat.say("/fold")
        assert "│" not in chat.say("add")
        assert "Then the tens" in chat.say("/thoughts")


def test_hidden_thinking_is_one_line(home: dict[str, str]) -> None:
    with Chat("--think", "--hide-thinking", **home) as chat:
        chat.wait(PROMPT)
        shown = chat.say("add")
        assert "ones" not in shown
        assert "thought for" in shown


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(home: dict[str, str]) -> None:
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        chat.type("forever\r")
        chat.wait("0 1 2 3")
        chat.interrupt()
        assert "stopped · " in chat.wait(PROMPT)
        assert "user: forever | assistant: 0 1 2 3" in chat.say("messages")


def test_ctrl_c_while_it_thinks(home: dict[str, str]) -> None:
    with Chat("--think", **home) as chat:
        chat.wait(PROMPT)
        chat.type("add\r")
        chat.wait("│ I add")
        chat.type(CTRL_C)  # through the terminal, as a person does
        assert "stopped · " in chat.wait(PROMPT)
        assert chat.process.poll() is None


def test_ctrl_c_at_the_prompt_clears_the_line_and_twice_leaves(home: dict[str, str]) -> None:
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        chat.type("never sent" + CTRL_C)
        assert "user: messages" in chat.say("messages")
        chat.type(CTRL_C)
        chat.wait("Ctrl-C again or Ctrl-D leaves")
        chat.wait(PROMPT)
        assert "42" in chat.say("still here")
        chat.type(CTRL_C)
        chat.wait("Ctrl-C again")
        chat.wait(PROMPT)
        chat.type(CTRL_C)
        assert chat.leave() == 0


def test_the_model_does_not_control_the_terminal(home: dict[str, str]) -> None:
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        before = len(chat.raw)
        chat.say("escape")
        answer = chat.raw[before:]
        assert "␛[31m title ␛]0;owned␇ clear ␛[2J␛[H" in answer
        assert not any(bad in answer for bad in ("\x1b[31m", "\x1b]0;owned", "\x1b[2J", "\x9b", "\u202e"))


def test_history_is_kept_for_its_owner_alone(home: dict[str, str]) -> None:
    file = Path(home["XDG_DATA_HOME"]) / "ingot" / "chat_history"
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        chat.say("remember me")
        chat.say("again")
        chat.type("/exit\r")
        assert chat.leave() == 0
    assert "remember me" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        chat.type("\x1b[A\x1b[A\x1b[A")
        chat.wait("remember me")


def test_no_history_leaves_no_file(home: dict[str, str]) -> None:
    with Chat("--no-history", **home) as chat:
        chat.wait(PROMPT)
        chat.say("hello")
        chat.type("/exit\r")
        assert chat.leave() == 0
    assert not (Path(home["XDG_DATA_HOME"]) / "ingot").exists()


def test_a_history_that_cannot_be_written_is_told_and_survived(home: dict[str, str]) -> None:
    Path(home["XDG_DATA_HOME"]).write_text("a file where the directory should be")
    with Chat(**home) as chat:
        assert "past lines will not be kept" in chat.wait(PROMPT)
        assert "42" in chat.say("hello")


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_plain_terminals(env: dict[str, str], home: dict[str, str]) -> None:
    prompt = ">" if "TERM" in env else PROMPT
    with Chat("--think", **home, **env) as chat:
        chat.wait(prompt)
        chat.type("add\r")
        chat.wait("42")
        chat.wait("tokens")
        chat.wait(prompt)
        answer = chat.raw[chat.raw.index("add\r" if "TERM" in env else "add") :]
        assert "\x1b[2m" not in chat.raw
        assert "\x1b[1m" not in chat.raw
        if "TERM" in env:
            assert "\x1b" not in chat.raw
        assert "thought for" in answer
        chat.type(CTRL_D)
        assert chat.leave() == 0


def test_save_load_regen_edit(home: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    with Chat("--system", "Be brief.", columns=300, **home) as chat:
        chat.wait(PROMPT)
        chat.say("hello")
        assert f"3 messages in {file}" in chat.say(f"/save {file}")
        assert f"3 messages in {file}" in chat.say(f"/save {file}")  # its own file may be written again
        chat.say("/new")
        chat.say("/system none")
        assert "3 messages from" in chat.say(f"/load {file}")
        assert "system: Be brief. | user: hello | assistant: 42 | user: messages" in chat.say("messages")
        assert "system: Be brief. | user: hello | assistant: 42 | user: messages\n" in chat.say("/regen")
        chat.type("/edit\r")
        chat.wait("messages")
        chat.type("\x7f" * 8 + "sampling\r")
        chat.wait("[]")
    roles = [(message["role"], message["content"]) for message in json.loads(file.read_text())]
    assert roles == [("system", "Be brief."), ("user", "hello"), ("assistant", "42")]


def test_slash_commands_answer_mistakes_in_a_sentence(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('[{"role": "wizard"}]')
    (tmp_path / "there.json").write_text("[]")
    mistakes = {
        "/tink on": "there is no /tink; did you mean /think?",
        "/xyz": "there is no /xyz; /help lists the commands",
        "/think maybe": "/think is given 'maybe'; it takes on, off or auto",
        "/set heat 3": "there is no parameter 'heat'",
        "/set temperature hot": "temperature is 'hot'; it must be a number",
        "/set temperature 101": "temperature is 101.0; it must be from 0 (greedy) to 100",
        "/set max_tokens 0": "max_tokens is 0; it must be a positive number",
        "/set": "/set takes a name and a value",
        "/regen": "there is nothing to answer yet",
        "/edit": "there is nothing to edit yet",
        "/load": "/load takes a file name",
        "/load no.json": "no.json: No such file or directory",
        f"/load {tmp_path}/bad.json": "messages[0].role is 'wizard'",
        f"/save {tmp_path}/there.json": "exists; give another name",
        f"/save {tmp_path}/no/dir.json": "No such file or directory",
    }
    with Chat(columns=200, **home) as chat:
        chat.wait(PROMPT)
        for line, told in mistakes.items():
            assert told in chat.say(line), line
        assert "42" in chat.say("still alive")


def test_set_reaches_the_model(home: dict[str, str]) -> None:
    with Chat("--seed", "3", **home) as chat:
        chat.wait(PROMPT)
        assert "nothing is set" not in chat.say("/params")
        chat.say("/set temperature 0.3")
        chat.say("/set top-k=5")
        assert "[('seed', 3), ('temperature', 0.3), ('top_k', 5)]" in chat.say("sampling")
        assert "temperature: the model's own value" in chat.say("/set temperature")
        assert "[('seed', 3), ('top_k', 5)]" in chat.say("sampling")


def test_a_refused_message_can_be_edited(home: dict[str, str]) -> None:
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        assert "error: the prompt has 9 tokens" in chat.say("refuse")
        chat.wait("refuse")  # it stands in the prompt again
        chat.type(CTRL_C)
        assert "\nuser: messages\n" in chat.say("messages")


@pytest.mark.parametrize("words", [[], ["--debug"]])
def test_a_crash_costs_one_answer_and_not_the_conversation(words: list[str], home: dict[str, str]) -> None:
    with Chat(*words, **home) as chat:
        chat.wait(PROMPT)
        chat.say("hello")
        assert "error: RuntimeError: the kernels are on fire" in chat.say("crash")
        assert ("Traceback" in chat.text) == bool(words)
        chat.type(CTRL_C)  # the message stands in the prompt again
        assert "user: hello | assistant: 42 | user: messages" in chat.say("messages")


def test_tool_calls_ask_for_their_results(home: dict[str, str], tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": "weather"}}]))
    with Chat("--tools", str(tools), **home) as chat:
        chat.wait(PROMPT)
        chat.type("weather?\r")
        chat.wait('calls weather({"city": "Paris"})')
        chat.wait("weather returns ›")
        chat.type("sunny\r")
        chat.wait("It is sunny in Paris.")
        chat.wait(PROMPT)
        chat.type("weather?\r")
        chat.wait("weather returns ›")
        chat.type(CTRL_C)
        chat.wait("no result for weather")
        chat.wait(PROMPT)
        assert "42" in chat.say("never mind")


def test_slow_reading_shows_a_line_and_takes_it_away(home: dict[str, str]) -> None:
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        shown = chat.say("slow reading")
        assert "reading 2 tokens · " in shown
        assert chat.raw[chat.raw.index("reading 2 tokens") :].index("\r\x1b[K") < 200


def test_a_slash_can_begin_a_message_and_tab_completes(home: dict[str, str]) -> None:
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        chat.say("//etc")
        assert "user: /etc | assistant: 42" in chat.say("messages")
        chat.type("/thou\t\r")
        chat.wait("the last answer came without thinking")


def test_keys_pressed_during_an_answer_wait_for_the_prompt(home: dict[str, str]) -> None:
    with Chat(**home) as chat:
        chat.wait(PROMPT)
        chat.type("forever\r")
        chat.wait("0 1 2")
        chat.type("zebra")
        chat.wait("12 13 14")
        chat.interrupt()
        assert "zebra" not in chat.text
        chat.wait("zebra")


def test_a_killed_chat_gives_the_terminal_back(home: dict[str, str]) -> None:
    import termios

    with Chat(**home) as chat:
        chat.wait(PROMPT)
        chat.type("forever\r")
        chat.wait("0 1 2")
        chat.process.terminate()
        assert chat.leave() == 143
        assert termios.tcgetattr(chat._own)[3] & termios.ECHO


@pytest.mark.parametrize(
    ("words", "told"), [(["--json"], "--json needs a prompt"), (["--tools", "no.json"], "no.json: No such file")]
)
def test_what_a_conversation_refuses(words: list[str], told: str, home: dict[str, str]) -> None:
    with Chat(*words, **home) as chat:
        chat.wait(told)
        assert chat.leave() == 2


def test_stdout_must_be_a_terminal(home: dict[str, str], tmp_path: Path) -> None:
    import pty
    import subprocess

    from tests.cli.run_ingot import command, environment

    own, theirs = pty.openpty()
    done = subprocess.run(
        command("chat"), stdin=theirs, capture_output=True, env=environment(**home), timeout=200, check=False
    )
    os.close(own)
    os.close(theirs)
    assert done.returncode == 2
    assert b"stdout is not a terminal" in done.stderr


def test_the_summary_says_what_was_read_and_what_was_known():
    usage = Usage(prompt_tokens=1031, completion_tokens=1, prefill_s=0.25)
    assert summary_line(Answer(content="a", usage=usage)) == "1 token · read 1,031 in 0.25 s"
    usage.cached_tokens = 1000
    assert summary_line(Answer(content="a", usage=usage)) == "1 token · read 31 of 1,031 in 0.25 s"
