"""`ingot serve`: the model behind an address, in OpenAI's forms."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import ipaddress
import logging
import math
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ingot.cli import chat
from ingot.cli.failure import INTERRUPTED, Parser, UsageError, abandon_stdout
from ingot.cli.terminal import Terminal

PORT = 8000
LEAST_DISK = 64  # MiB; less holds no state of the larger models (taste)
LEVELS = ("error", "warning", "info", "debug")
EXAMPLES = """\
examples:
  ingot serve                                  the bundled nugget at http://127.0.0.1:8000/v1
  ingot serve Qwen/Qwen3.5-4B --weights q4 --parallel 2 --context 32768
  INGOT_API_KEY=... ingot serve MODEL --host 0.0.0.0     for others: a key is needed

Ctrl-C finishes the answers that are being made, a second one stops at once. After a crash the server is started again,
at the same address. Guide: docs/serve.md"""


def parser() -> Parser:
    """The options of `ingot serve`."""
    made = Parser("serve", description="Serve a model to OpenAI clients.", epilog=EXAMPLES)
    made.add_argument(
        "model", nargs="?", metavar="MODEL", help="a checkpoint directory or hub id (default: nugget, the bundled one)"
    )
    group = made.add_argument_group("serving")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    group.add_argument("--port", type=int, default=PORT, metavar="N", help=f"0: one that is free (default: {PORT})")
    group.add_argument(
        "--api-key", metavar="KEY", help="what clients must send; better in INGOT_API_KEY: ps shows this"
    )
    group.add_argument(
        "--parallel", type=int, metavar="N", help="answers at a time (default: up to 4, as memory allows)"
    )
    group.add_argument(
        "--context", type=int, metavar="N", help="tokens of a prompt with its answer (default: as many as fit)"
    )
    group.add_argument(
        "--cache-ram",
        type=int,
        metavar="MIB",
        help="memory for snapshots of the prefix cache, 0: no cache (default: an eighth of what is free)",
    )
    group.add_argument(
        "--cache-disk",
        type=disk_size,
        default=False,
        metavar="MIB",
        help="keep it on disk, too, for the next start, in MIB at most; auto: up to 8192, or a tenth of what is free. "
        "Prompts can be read from such files (default: none are written)",
    )
    group.add_argument(
        "--cache-canary",
        type=float,
        default=0.001,
        metavar="SHARE",
        help="of what the prefix cache gives, so much is computed again when idle, and compared (default: 0.001)",
    )
    group.add_argument("--queue", type=int, metavar="N", help="requests that may wait beside them (default: 32)")
    group.add_argument(
        "--alias",
        metavar="NAME",
        action="append",
        default=[],
        help="the model's name for clients (default: MODEL); again: other names that it answers to",
    )
    group.add_argument(
        "--cors",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="web pages of ORIGIN may ask; localhost: this machine's; *: all",
    )
    group.add_argument(
        "--drain",
        type=float,
        metavar="SECONDS",
        help="what answers may take to end after Ctrl-C (default: all they need)",
    )
    group.add_argument(
        "--watchdog",
        type=float,
        metavar="SECONDS",
        help="what a pass may take; 0: any (default: 120, then a new start)",
    )
    group.add_argument("--no-supervisor", action="store_true", help="one process, not started again after a crash")
    group.add_argument("--supervised", metavar="FILES", help=argparse.SUPPRESS)  # what the supervisor tells its child
    chat.add_preserving(group)
    group.add_argument(
        "--no-idle-prefill",
        action="store_false",
        dest="idle_prefill",
        help="do not read the known part of a conversation's next prompt while there is nothing else to do",
    )
    group.add_argument(
        "--debug-cache",
        action="store_true",
        help='tell requests with {"debug": {"cache": true}} where their prompt left what the cache knows, as text',
    )
    group.add_argument("--log-level", choices=LEVELS, default="info", help="what is written to stderr (default: info)")
    chat.add_running(made)
    return made


def disk_size(word: str) -> bool | int:
    """What --cache-disk means for `ingot.load`."""
    if word == "auto":
        return True
    try:
        size = int(word)
    except ValueError:
        size = 0
    if size < LEAST_DISK:
        raise argparse.ArgumentTypeError(f"{word!r} is given; auto or a number from {LEAST_DISK} is needed")
    return size * 2**20


def run(args: argparse.Namespace) -> int:
    """Serve until a signal, by a child that is started again where it crashes. What can be wrong with the options is
    found first."""
    key = args.api_key if args.api_key is not None else os.environ.get("INGOT_API_KEY") or None
    _check(args, key)
    logging.basicConfig(stream=sys.stderr, level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    # they tell of each start, and of each write to a client that has left, in words of their own
    for other, level in (("uvicorn", logging.WARNING), ("asyncio", logging.ERROR)):
        logging.getLogger(other).setLevel(max(level, logging.getLogger().level))
    from ingot.serve.supervisor import is_possible

    if args.supervised is None and not args.no_supervisor and is_possible():
        return _supervised(args)
    return _serve(args, key)


def _supervised(args: argparse.Namespace) -> int:
    """Hold the socket and keep a server alive behind it. Little is imported here: this process is to outlive all."""
    from ingot.serve.address import bound
    from ingot.serve.supervisor import Supervisor, child_command, silence_of

    with bound(args.host, args.port) as sock:
        sock.listen()
        supervisor = Supervisor(lambda link: child_command(args.words, link), sock, silence_of(args.watchdog))
        return supervisor.run()


def _serve(args: argparse.Namespace, key: str | None) -> int:
    link = None
    if args.supervised is not None:
        from ingot.serve.link import Link

        link = Link.of(args.supervised)
        link.hold()
    with contextlib.suppress(io.UnsupportedOperation, AttributeError, ValueError):  # a stderr that is no file
        faulthandler.enable()
    from ingot.serve.server import Settings, serve

    settings = Settings(
        names=_names(args.model or "nugget", args.alias),
        host=args.host,
        port=args.port,
        key=key,
        origins=args.cors,
        parallel=args.parallel,
        context=args.context,
        cache=None if args.cache_ram is None else args.cache_ram * 2**20,
        canary=args.cache_canary,
        drain=args.drain,
        idle_prefill=args.idle_prefill,
        debug_cache=args.debug_cache,
        **{name: getattr(args, name) for name in ("queue", "watchdog") if getattr(args, name) is not None},
    )
    finished = serve(settings, lambda: chat.load_model(args), _told, link)
    code = 0 if finished else INTERRUPTED
    if any(thread.name == "engine" for thread in threading.enumerate()):
        # it is in native code, where nothing can end it, and the interpreter's own end would abort the process
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


def _told(line: str) -> None:
    """A line about a step. Where nobody can read it, because a pipe is closed or a disk full, it is lost: the server is
    for its clients."""
    try:
        Terminal(sys.stdout).write(f"ingot serve: {line}\n")
    except OSError:
        abandon_stdout()


def _names(model: str, aliases: Sequence[str]) -> list[str]:
    """What clients may call it: the aliases, and what was given here, of a path its last part."""
    own = Path(model).name if os.path.isdir(model) else model
    return list(dict.fromkeys([*aliases, own]))


def _check(args: argparse.Namespace, key: str | None) -> None:
    for name in ("parallel", "context"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} is {value}; a positive number is needed")
    for name in ("queue", "cache_ram"):
        value = getattr(args, name)
        if value is not None and value < 0:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; 0 or more is needed")
    if args.cache_disk and args.cache_ram == 0:
        raise UsageError("--cache-disk is given with --cache-ram 0; what is kept on disk is first in memory")
    if not 0 <= args.cache_canary <= 1:
        raise UsageError(f"--cache-canary is {args.cache_canary}; 0 to 1 is needed")
    for name in ("drain", "watchdog"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"--{name} is {value}; 0 seconds or more are needed")
    if not 0 <= args.port < 2**16:
        raise UsageError(f"--port is {args.port}; 0 to 65535 is needed")
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
        raise UsageError("--api-key is empty or holds what no header can carry; printable ASCII is needed")
    for alias in args.alias:
        if not (alias.strip() and alias.isprintable()):
            raise UsageError(f"--alias is {alias!r}; a name is needed")
    if key is None and not _is_loopback(args.host):
        raise UsageError(
            f"--host is {args.host}, which others can reach; that needs a key\n"
            "hint: INGOT_API_KEY=$(openssl rand -hex 16) ingot serve ..., and clients send it"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
