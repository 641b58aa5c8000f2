"""A pytest plugin under which llama.cpp's own server tests start `ingot serve` on the nugget where they would start
`llama-server`. Their files are used where they lie and as they are; this is loaded into their pytest with `-p`.

INGOT_OUTCOMES names a file that gets one line of JSON a test: [id, outcome, the error's last line].
"""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

# llama-server answers whatever model it is asked for. Where a test's source has one of these, it is an alias.
OPENAI_NAMES = ("gpt-3.5-turbo-instruct", "gpt-3.5-turbo", "davinci-002")
# Attributes of their ServerProcess that change nothing that a client of `ingot serve` sees, and why.
NEEDLESS = {
    "model_hf_repo": "the model is the nugget",
    "model_hf_file": "the model is the nugget",
    "offline": "nothing is fetched",
    "temperature": "a default of requests that say none: `requested` says it",
    "seed": "a default of requests that say none: `requested` says it",
    "n_predict": "a default of requests that say none: `requested` says it",
    "n_batch": "answers do not depend on it",
    "n_ubatch": "answers do not depend on it",
    "kv_unified": "all answers share one pool of pages",
    "server_continuous_batching": "always",
    "server_metrics": "always",
    "server_slots": "never; `slots` asks the metrics",
    "jinja": "always",
    "debug": "--log-level",
    "no_ui": "there is none",
}
MAPPED = ("server_host", "server_port", "n_ctx", "n_slots", "model_alias", "api_key", "n_threads", "cors_origins")
asked_for: list[str] = []  # by the test that runs, of OPENAI_NAMES


def options(server: Any) -> list[str]:
    """What `ingot serve` is told for one of their servers; LookupError for a setting that it does not have."""
    strange = [
        name
        for name, value in vars(server).items()
        if value not in (None, False) and name not in (*MAPPED, *NEEDLESS) and hasattr(type(server), name)
    ]
    if strange:
        raise LookupError(f"ingot serve has no {', '.join(strange)}")
    slots = server.n_slots or 1
    words = ["--port", str(server.server_port), "--host", server.server_host, "--parallel", str(slots)]
    words += ["--context", str(server.n_ctx // slots)] if server.n_ctx else []
    words += ["--threads", str(server.n_threads)] if server.n_threads else []
    words += ["--api-key", server.api_key] if server.api_key else []
    words += ["--cors", server.cors_origins] if server.cors_origins else []
    for name in [*(server.model_alias or "nugget").split(","), *asked_for]:
        words += ["--alias", name]
    return words


def requested(server: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Their request to /completion as one to /v1/completions: names changed, the server's defaults filled in. What else
    it has goes as it is, and is refused by name.

    Their model never ends an answer by itself, and the tests rely on it: so does this one not.
    """
    said = dict(body)
    most = said.pop("n_predict", server.n_predict or -1)
    room = {} if most == -1 else {"max_tokens": most}
    defaults = {"temperature": server.temperature, "seed": server.seed, "ignore_eos": True}
    return {**defaults, **room, **said, **({"stream_options": {"include_usage": True}} if said.get("stream") else {})}


def answered(body: dict[str, Any]) -> dict[str, Any]:
    """Our response, or an event of it, as /completion has it: what both can say."""
    choice, usage = (body.get("choices") or [{}])[0], body.get("usage")
    said: dict[str, Any] = {"content": choice.get("text", ""), "stop": usage is not None}
    if usage is None:
        return said
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    said["timings"] = {"cache_n": cached, "prompt_n": usage["prompt_tokens"] - cached}
    said["timings"]["predicted_n"] = usage["completion_tokens"]
    return said | {"truncated": False, "has_new_line": "\n" in said["content"]}


def slots(server: Any, ask: Any) -> Any:
    """What GET /slots would say, as far as /metrics tells it."""
    result = ask(server, "GET", "/metrics")
    running = int(float(result.body.split("\ningot_requests_running ")[1].split()[0]))
    result.body = [{"is_processing": place < running} for place in range(server.n_slots)]
    return result


def translate(theirs: Any) -> None:
    """Let their requests to /completion ask /v1/completions, and those to /slots the metrics."""
    from requests.structures import CaseInsensitiveDict

    ask, stream = theirs.make_request, theirs.make_stream_request

    def asked(server: Any, method: str, path: str, data: Any = None, *more: Any, **named: Any) -> Any:
        if path == "/slots" and method == "GET" and server.server_slots:
            return slots(server, ask)
        if path != "/completion" or not isinstance(data, dict):
            result = ask(server, method, path, data, *more, **named)
            result.headers = CaseInsensitiveDict(result.headers)  # as HTTP has it
            return result
        result = ask(server, method, "/v1/completions", requested(server, data), *more, **named)
        if result.status_code == 200:
            several = len(result.body["choices"]) > 1
            each = [answered({**result.body, "choices": [one]}) for one in result.body["choices"]]
            result.body = each if several else each[0]
        return result

    def streamed(server: Any, method: str, path: str, data: Any = None, *more: Any, **named: Any) -> Any:
        if path != "/completion":
            yield from stream(server, method, path, data, *more, **named)
            return
        for event in stream(server, method, "/v1/completions", requested(server, data), *more, **named):
            yield answered(event)

    theirs.make_request, theirs.make_stream_request = asked, streamed


def start(server: Any, timeout_seconds: float = 30) -> None:
    """Their ServerProcess.start: returns when the model is loaded."""
    import utils  # theirs

    if server.server_port == type(server).server_port:
        server.server_port = _free_port()
    command = [sys.executable, "-m", "ingot.cli", "serve", *options(server)]
    server.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    utils.server_instances.add(server)
    end = time.monotonic() + timeout_seconds
    while server.process.poll() is None and time.monotonic() < end:
        try:
            if server.make_request("GET", "/health").status_code == 200:
                return
        except OSError:  # nobody listens yet; requests' errors are of this kind
            pass
        time.sleep(0.02)
    raise RuntimeError(f"{' '.join(command)} did not start")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def pytest_configure(config: pytest.Config) -> None:
    """Before their modules are imported."""
    sys.modules.setdefault("wget", types.ModuleType("wget"))  # theirs imports it; nothing is downloaded here
    config.addinivalue_line("markers", "slow: real models are downloaded")
    config.addinivalue_line("markers", "serial: not beside others")
    import utils

    utils.ServerProcess.start = start
    translate(utils.ServerProcess)


@pytest.fixture(autouse=True)
def stop_servers(request: pytest.FixtureRequest) -> Any:
    """What their conftest.py does, without loading models first."""
    import utils

    source = inspect.getsource(request.function)
    asked_for[:] = [name for name in OPENAI_NAMES if f'"{name}"' in source]
    yield
    for server in set(utils.server_instances):
        server.stop()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a test went: its call, or what kept it from being called."""
    if report.when != "call" and report.outcome == "passed":
        return
    last = str(report.longrepr).strip().splitlines()[-1:] if report.longrepr else []
    crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", "").splitlines()[:1]
    with Path(os.environ["INGOT_OUTCOMES"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([report.nodeid, report.outcome, *(crash or last or [""])]) + "\n")
