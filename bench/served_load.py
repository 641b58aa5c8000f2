"""Streaming users at a time, `ingot serve` beside `llama-server`: the same random weights with the same bits in body
and head, the same prompts and lengths of answers, in turns.

`python -m bench.served_load --users 1,4,8,16` builds what is missing and measures what bench/results/served_load.jsonl
has not yet for this commit, so that an interrupted run goes on. Speed only: the weights are random. Each user asks for
one answer after the other; a prompt is shared with nobody.
"""

from __future__ import annotations

import argparse
import statistics
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench import limits, llama, servers
from bench.arguments import server_parser
from bench.checkpoints import official_shape
from bench.process import alone
from bench.results import Record, append, commit, now, read_records
from bench.servers import Answered, Server
from ingot.prompt import Tokenizer

WARM_UP = 1000  # the seed of an answer that is not counted
BIAS = 60  # of the words that answers are made of; random logits are within 5
# llama.cpp's fastest at decoding (bench.side_by_side), with the batches that read prompts fastest
SETTINGS = {"--repack": "1", "-fa": "on", "-lm": "none", "-ub": "256"}


def main() -> None:
    """Measure what is missing."""
    args = _arguments()
    source = llama.built(args.llama or args.work)
    checkpoint = official_shape(args.size, args.work)
    peer = args.peer or llama.PEERS[args.format][0]
    file = llama.model_file(source, checkpoint, peer)
    words = readable(checkpoint)
    for turn in range(args.runs):
        for users in map(int, args.users.split(",")):
            if _done(args, peer, users) > turn:
                continue
            with alone(args.lock):
                _cell(args, source, checkpoint, file, users, turn, words)


def _cell(
    args: argparse.Namespace, source: Path, checkpoint: Path, file: Path, users: int, turn: int, words: Sequence[int]
) -> None:
    """Both servers, one after the other, under the same users; appended to the results."""
    engines = ["ours", "theirs"] if turn % 2 == 0 else ["theirs", "ours"]
    roof, found, commands = limits.reading(args.threads), {}, {}
    for who in engines:
        try:
            found[who], commands[who] = _served(args, source, checkpoint, file, who, users, words, SETTINGS)
        except RuntimeError as error:  # llama.cpp's AMX kernels crash at some numbers of rows, as 16
            if who == "ours":
                raise
            print(f"without repacking, because of {error}", flush=True)
            plain = SETTINGS | {"--repack": "0"}
            found[who], commands[who] = _served(args, source, checkpoint, file, who, users, words, plain)
    record: Record = {
        "kind": "served_load",
        "time": now(),
        "commit": commit(),
        "machine": limits.machine(),
        **_key(args, file.stem, users),
        "turn": turn,
        "order": engines,
        "threads": args.threads,
        **found,
        **{f"{who}_command": command for who, command in commands.items()},
        **roof,
        "llama": llama.SDIST,
    }
    append(args.out, record)
    print(row(record), flush=True)


def _served(
    args: argparse.Namespace,
    source: Path,
    checkpoint: Path,
    file: Path,
    who: str,
    users: int,
    words: Sequence[int],
    settings: Mapping[str, str],
) -> tuple[Record, str]:
    """What one server did under its users, and its command."""
    context = args.prompt + args.answer + 64
    if who == "ours":
        cache = args.work / "cache"
        made = servers.ours(checkpoint, args.format, users, context, args.threads, args.ours.split(), cache)
    else:
        made = servers.theirs(source, file, users, context, args.threads, settings, args.theirs.split())
    with made as server:
        ask(server, args, WARM_UP, words)
        told = summary(load(server, args, users, words)) | server.memory() | {"load_s": server.load_s}
    return told, server.command


def load(server: Server, args: argparse.Namespace, users: int, words: Sequence[int]) -> list[Answered]:
    """All users' answers; they begin together."""
    each = max(args.requests, args.least // users)
    together = threading.Barrier(users)

    def user(place: int) -> list[Answered]:
        together.wait()
        return [ask(server, args, place + users * turn, words) for turn in range(each)]

    with ThreadPoolExecutor(users) as pool:
        return [answer for answers in pool.map(user, range(users)) for answer in answers]


def ask(server: Server, args: argparse.Namespace, seed: int, words: Sequence[int]) -> Answered:
    """One answer of the length wanted, after random ids. Its tokens are drawn from `words`, whole characters, so
    that each is a piece of the stream, and no server can guess the next."""
    ids = np.random.default_rng(seed).integers(256, 200_000, args.prompt)
    body = {
        "prompt": ids.tolist(),
        "max_tokens": args.answer,
        "ignore_eos": True,
        "temperature": 1.0,
        "top_k": 20,
        "top_p": 1.0,
        "min_p": 0.0,
        "seed": seed,
        "logit_bias": {str(word): BIAS for word in words},
    }
    answer = servers.ask(server, "/v1/completions", body)
    assert (answer.prompt, answer.tokens) == (args.prompt, args.answer), answer.usage
    assert len(answer.times) >= 0.9 * args.answer, f"{len(answer.times)} pieces of {args.answer} tokens"
    return answer


def summary(answers: Sequence[Answered]) -> dict[str, float]:
    """What a cell tells of one server: tokens a second of all and of the median user, seconds to the first token
    (median and 99th percentile), the longest silence inside an answer."""
    wall = max(answer.ended for answer in answers) - min(answer.asked for answer in answers)
    firsts = sorted(answer.first_s for answer in answers)
    return {
        "answers": len(answers),
        "tok_s": sum(answer.tokens for answer in answers) / wall,
        "user_tok_s": statistics.median(answer.rate for answer in answers),
        "first_p50_s": statistics.median(firsts),
        "first_p99_s": float(np.percentile(firsts, 99)),
        "stall_s": max(answer.stall_s for answer in answers),
        "wall_s": wall,
    }


def row(record: Mapping[str, Any]) -> str:
    """A line about a cell: ours, theirs."""
    a, b = record["ours"], record["theirs"]
    parts = [
        f"{name} {a[key]:.{digits}f} / {b[key]:.{digits}f}"
        for name, key, digits in (
            ("all tok/s", "tok_s", 1),
            ("a user's", "user_tok_s", 1),
            ("first token p50 s", "first_p50_s", 2),
            ("p99", "first_p99_s", 2),
            ("longest stall s", "stall_s", 2),
        )
    ]
    return f"{record['size']} {record['format']}, {record['users']} users: {', '.join(parts)} (ours / theirs)"


def readable(checkpoint: Path) -> list[int]:
    """Tokens that are a digit, of several scripts. Each is a word of its own to the tokenizer: what was made of them
    and is sent back as text is cut into the same tokens, as with a real model's words."""
    tokenizer = Tokenizer.from_directory(checkpoint)
    digits = (tokenizer.encode(chr(code)) for code in range(0x800) if chr(code).isdigit())
    return [int(digit[0]) for digit in digits if len(digit) == 1]


def _key(args: argparse.Namespace, peer: str, users: int) -> dict[str, Any]:
    lengths = {"prompt": args.prompt, "answer": args.answer, "requests": args.requests}
    options = {"ours_options": args.ours, "theirs_options": args.theirs}
    return {"size": args.size, "format": args.format, "peer": peer, "users": users, **lengths, **options}


def _done(args: argparse.Namespace, peer: str, users: int) -> int:
    """How many pairs of this commit the results have."""
    wanted = {"commit": commit(), "threads": args.threads, **_key(args, peer, users)}
    return sum(all(record.get(k) == v for k, v in wanted.items()) for record in read_records(args.out))


def _arguments() -> argparse.Namespace:
    parser = server_parser("served_load", __doc__)
    parser.add_argument("--users", default="1,4,8,16", help="how many at a time: a cell each")
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--answer", type=int, default=96, help="tokens")
    parser.add_argument("--requests", type=int, default=2, help="answers to each user, one after the other")
    parser.add_argument("--least", type=int, default=6, help="answers in a cell at least")
    parser.add_argument("--runs", type=int, default=1, help="pairs of each cell")
    return parser.parse_args()


if __name__ == "__main__":
    main()
