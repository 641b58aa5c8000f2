"""`ingot serve` as a process: what it prints, how it is refused, how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

from ingot.cli import chat, main, serve
from tests.cli.run_ingot import SOURCE, environment, run
from tests.serve.running import PATIENCE_S

NUGGET = resources.files("ingot").joinpath("nugget", "model.safetensors").is_file()
pytestmark = pytest.mark.skipif(not NUGGET, reason="the nugget's weights are not here")


@contextlib.contextmanager
def started(*words, **env):
    """The process, and its port once it is ready."""
    command = [sys.executable, "-m", "ingot.cli", "serve", "--port", "0", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**env)
    ) as process:
        try:
            yield process, ready(process)
        finally:
            process.kill()


def ready(process):
    for line in process.stdout:
        if found := re.search(r"ready: (\S+) at http://127\.0\.0\.1:(\d+)/v1", line):
            return int(found[2])
    raise AssertionError(process.stderr.read())


def ask(port, path="/v1/chat/completions", **body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("POST", path, json.dumps(body))
    return connection, connection.getresponse()


SUM = [{"role": "user", "content": "What is 17 + 25?"}]
LONG = {"messages": SUM, "ignore_eos": True, "max_tokens": 1500, "stream": True}


@contextlib.contextmanager
def answering(n=1, **env):
    """A server in the midst of a long answer: process, port, the response that has begun."""
    with started(**env) as (process, port):
        connection, response = ask(port, **LONG, n=n)
        assert response.readline().startswith(b"data: ")
        yield process, port, response
        connection.close()


def test_the_prefix_cache_has_its_options():
    system = {"role": "system", "content": "You are a friendly tutor for children. " * 8}
    said = {"role": "assistant", "content": "42", "reasoning_content": "17 and 25 make 42"}
    with started("--debug-cache", "--preserve-thinking", "--no-idle-prefill") as (_, port):
        told = []
        for words in ("Hello!", "Good day!"):
            messages = [system, *SUM, said, {"role": "user", "content": words}]
            connection, response = ask(port, messages=messages, debug={"cache": True}, max_tokens=3)
            told.append(json.loads(response.read())["debug"]["cache"][0])
            connection.close()
        assert (told[0]["matched_tokens"], told[0]["diverged"]) == (0, None)
        assert told[1]["cached_tokens"] > 40
        assert told[1]["diverged"]["expected"].startswith("Hello!")
        for keeps, more in (({}, 0), ({"chat_template_kwargs": {"preserve_thinking": False}}, -10)):
            connection, response = ask(port, "/tokenize", messages=messages, **keeps)
            count = json.loads(response.read())["count"]
            connection.close()
            assert count <= told[1]["prompt_tokens"] + more


@pytest.mark.parametrize("command", [chat, serve])
def test_reasoning_is_preserved_by_option(command):
    assert chat.load_model(command.parser().parse_args(["--preserve-thinking"])).chat_template_kwargs == {
        "preserve_thinking": True
    }
    assert chat.load_model(command.parser().parse_args([])).chat_template_kwargs == {}


def test_it_answers_and_a_signal_ends_it():
    with started("--parallel", "2", "--context", "900", "--alias", "sums", "--alias", "plus") as (process, port):
        connection, response = ask(port, messages=SUM, model="plus", temperature=0)
        assert "42" in json.loads(response.read())["choices"][0]["message"]["content"]
        connection.close()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert "POST /v1/chat/completions 200 prompt=" in err
        assert "What is" not in err
        assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_an_answer_end(number):
    with answering() as (process, port, response):
        process.send_signal(number)
        for line in process.stdout:
            if "finishing 1 requests" in line:
                break
        refused, second = ask(port, messages=SUM)
        assert (second.status, second.getheader("retry-after")) == (503, "5")
        refused.close()
        assert response.read().endswith(b"data: [DONE]\n\n")
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert "Traceback" not in err


def test_a_second_signal_ends_it_at_once():
    with answering(n=4) as (process, _, _):
        process.send_signal(signal.SIGINT)
        for line in process.stdout:
            if "finishing" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert "Traceback" not in err


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


supervised = pytest.mark.skipif(sys.platform != "linux", reason="the child is found in /proc")


# Python runs this at its start. The fault is the engine's own thread's, as that of a kernel is: the stack of another
# thread is read while it goes on, and may be cut short.
FAULT_ON_SIGNAL = """
import signal, threading

def fault(number, frame):
    engine = next(thread for thread in threading.enumerate() if thread.name == "engine")
    signal.pthread_kill(engine.ident, signal.SIGSEGV)

signal.signal(signal.SIGUSR1, fault)
"""


@supervised
def test_a_crash_costs_the_answers_that_were_being_made(tmp_path):
    """The stream is cut, the sentence is in the log with the stack, and the same address answers again."""
    (tmp_path / "sitecustomize.py").write_text(FAULT_ON_SIGNAL)
    with answering(PYTHONPATH=os.pathsep.join([str(tmp_path), SOURCE])) as (process, port, response):
        os.kill(children(process)[0], signal.SIGUSR1)
        with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            assert b"[DONE]" not in response.read()
        connection, response = ask(port, "/v1/models")  # waits in the backlog until the next child listens
        connection.close()
        assert ready(process) == port
        connection, response = ask(port, messages=SUM, temperature=0)
        assert "42" in json.loads(response.read())["choices"][0]["message"]["content"]
        connection.close()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert "the server crashed in native code (SIGSEGV); please report it" in err
        assert "Segmentation fault" in err
        assert "engine_thread.py" in err
        assert "What is" not in err


@supervised
def test_nobody_needs_to_read_what_it_prints():
    """`ingot serve | head -1`: a crash later the next child serves all the same, and ends as it should."""
    with started("--log-level", "info") as (process, port):
        process.stdout.close()
        process.stdout = None
        (child,) = children(process)
        os.kill(child, signal.SIGKILL)
        while child in children(process):
            time.sleep(0.01)
        connection, response = ask(port, **LONG)
        while response.status == 503:
            connection.close()
            time.sleep(0.1)
            connection, response = ask(port, **LONG)
        response.readline()
        process.send_signal(signal.SIGTERM)
        assert response.read().endswith(b"data: [DONE]\n\n")
        connection.close()
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err


@supervised
def test_a_killed_supervisor_takes_the_server_along():
    with started() as (process, port):
        (child,) = children(process)
        os.kill(child, signal.SIGSTOP)
        process.kill()
        process.wait()
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("it lives")


@supervised
def test_a_signal_to_all_processes_is_one_signal():
    """Ctrl-C of a terminal, and systemd's SIGTERM, come to the supervisor and to its child."""
    with answering() as (process, _, response):
        os.kill(children(process)[0], signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert response.read().endswith(b"data: [DONE]\n\n")
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err


@supervised
def test_without_a_supervisor_there_is_one_process():
    with started("--no-supervisor") as (process, port):
        assert children(process) == []
        connection, response = ask(port, **LONG)
        response.readline()
        process.send_signal(signal.SIGSEGV)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -signal.SIGSEGV
        assert "Segmentation fault" in err
        connection.close()


def test_the_time_to_finish_may_be_limited():
    with started("--drain", "0.3") as (process, port):
        connection, response = ask(port, **LONG, n=4)
        response.readline()
        process.send_signal(signal.SIGTERM)
        rest = response.read()
        assert b"the server is stopping" in rest
        assert not rest.endswith(b"data: [DONE]\n\n")
        connection.close()
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert "1 requests were not finished in time" in err


def test_the_supervisor_is_small():
    """What holds the socket imports neither numpy nor the server."""
    heavy = "numpy|starlette|uvicorn|tokenizers|jinja2|asyncio|ingot.language_model|ingot._native"
    code = (
        "import sys; from ingot.cli import main, serve; from ingot.serve import supervisor\n"
        "supervisor.Supervisor.run = lambda self: 7\n"
        "assert main(['serve', '--port', '0']) == 7\n"
        f"print([name for name in {heavy!r}.split('|') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert found.stdout == "[]\n", found.stderr


def test_the_key_may_come_from_the_environment():
    with started(INGOT_API_KEY="secret") as (_, port):
        connection, response = ask(port, messages=SUM)
        assert response.status == 401
        connection.close()


def told(port, name):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return float(re.search(rf"^ingot_{name} (\S+)$", text, re.MULTILINE)[1])


def test_states_on_disk_survive_a_kill(tmp_path):
    words, env = ["--cache-disk", "auto", "--parallel", "2"], {"INGOT_CACHE": str(tmp_path)}
    prompt = [5 + n * n % 300 for n in range(400)]
    with started(*words, **env) as (process, port):
        connection, response = ask(port, "/v1/completions", prompt=prompt, max_tokens=8, temperature=0)
        first = json.loads(response.read())["choices"][0]["text"]
        for _ in range(200):
            if told(port, "cache_disk_records") >= 7:  # six full pages and a state
                break
            time.sleep(0.02)
        process.kill()
        process.communicate()
    with started(*words, **env) as (process, port):
        ids = ask_ids(port, first)
        connection, response = ask(port, "/v1/completions", prompt=[*prompt, *ids, 9], max_tokens=8, temperature=0)
        warm = json.loads(response.read())["choices"][0]["text"]
        assert told(port, "cache_disk_hits_total") == 1
        assert told(port, "cache_disk_tokens_total") > 400
    with started("--parallel", "2", **env) as (process, port):
        connection, response = ask(port, "/v1/completions", prompt=[*prompt, *ids, 9], max_tokens=8, temperature=0)
        assert json.loads(response.read())["choices"][0]["text"] == warm
        assert told(port, "cache_disk_hits_total") == 0, "nothing is read or written unless asked"
    connection.close()


def test_a_folder_that_cannot_be_used_is_not_said_to_be(tmp_path):
    (tmp_path / "prefix").touch()
    words = ("--port", "0", "--no-supervisor", "--cache-disk", "64")
    command = [sys.executable, "-m", "ingot.cli", "serve", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(INGOT_CACHE=str(tmp_path))
    ) as process:
        told = []
        while "ready" not in "".join(told[-1:]):
            told.append(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    assert "cannot be read: it is no folder of this user" in err
    assert not any("are kept in" in line for line in told)


def ask_ids(port, text):
    connection, response = ask(port, "/tokenize", content=text)
    found = json.loads(response.read())["tokens"]
    connection.close()
    return found


REFUSED = [
    (("--host", "0.0.0.0"), "that needs a key"),
    (("--host", "192.168.1.5"), "that needs a key"),
    (("--api-key", ""), "--api-key is empty"),
    (("--api-key", "schlüssel"), "printable ASCII"),
    (("--port", "70000"), "0 to 65535"),
    (("--port", "x"), "invalid int"),
    (("--parallel", "0"), "a positive number"),
    (("--context", "-3"), "a positive number"),
    (("--queue", "-1"), "0 or more"),
    (("--cache-disk", "5"), "auto or a number from 64"),
    (("--cache-disk", "auto", "--cache-ram", "0"), "--cache-disk is given with --cache-ram 0"),
    (("--alias", " "), "a name is needed"),
    (("--drain", "-1"), "0 seconds or more"),
    (("--watchdog", "inf"), "0 seconds or more"),
    (("--colour",), "there is no option"),
]
NOT_LOADED = [
    (("--context", "999999"), "this model's context is 2 to"),
    (("--parallel", "99999999"), "MiB are free"),
    (("nowhere/at/all",), "nowhere/at/all"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused_at_once(words, sentence, capsys):
    assert main(["serve", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("words", "sentence"), NOT_LOADED, ids=lambda value: str(value)[:40])
def test_what_is_refused_when_it_loads(words, sentence):
    found = run("serve", "--port", "0", *words, real=True)
    assert found.returncode == 2, found.stderr
    assert sentence in found.stderr.decode()
    assert b"Traceback" not in found.stderr


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = run("serve", "--port", str(taken.getsockname()[1]), real=True)
    assert found.returncode == 1
    assert b"Address already in use" in found.stderr
    assert b"hint: --port 0" in found.stderr
