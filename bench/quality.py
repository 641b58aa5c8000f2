"""What a weight format costs in quality: its next-token predictions against those of the same model in f32.

`python -m bench.quality [MODEL]` (default: the bundled nugget) prints, for each format, the mean and the largest
KL(f32 || format) over the tokens of its texts in nats, and how often the most likely token is the same. The texts are
FILE's lines, or what the nugget is asked in its own evaluation, each with the model's greedy answer in f32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ingot

FORMATS = ("bf16", "q8", "q4")
ANSWER_TOKENS = 48


def main() -> None:
    """One line a format."""
    args = _arguments()
    exact = ingot.load(args.model, weights="f32", kv="f32", cache=False)
    texts = list(_texts(exact, args.texts, args.limit))
    wanted = [_log_softmax(exact.logits(ids)) for ids in texts]
    tokens = sum(map(len, texts))
    print(f"{args.model or 'nugget'}: {len(texts)} texts, {tokens:,} tokens; KL(f32 || format) in nats")
    print(f"{'':<6}{'mean KL':>12}{'99 %':>12}{'max KL':>12}{'same top':>10}")
    for fmt in args.formats.split(","):
        model = ingot.load(args.model, weights=fmt, kv=args.kv, cache=False)
        record = {"kind": "quality", "model": args.model or "nugget", "format": fmt, "kv": args.kv, "tokens": tokens}
        record |= compare(wanted, [_log_softmax(model.logits(ids)) for ids in texts])
        print(
            f"{fmt:<6}{record['kl_mean']:>12.2e}{record['kl_99']:>12.2e}{record['kl_max']:>12.2e}{record['same_top']:>10.2%}"
        )
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


def compare(wanted: list[np.ndarray], given: list[np.ndarray]) -> dict[str, float]:
    """Divergence of log-probabilities [T, Z] from those wanted, over all rows."""
    pairs = list(zip(wanted, given, strict=True))
    kl = np.concatenate([(np.exp(p) * (p - q)).sum(axis=1) for p, q in pairs])
    same = np.concatenate([p.argmax(axis=1) == q.argmax(axis=1) for p, q in pairs])
    return {
        "kl_mean": float(kl.mean()),
        "kl_99": float(np.quantile(kl, 0.99)),
        "kl_max": float(kl.max()),
        "same_top": float(same.mean()),
    }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _texts(model: Any, path: Path | None, limit: int) -> Iterator[list[int]]:
    """Token ids of each text with the model's own continuation."""
    prompts = _lines(model, path) if path else _questions(model)
    for ids, _ in zip(prompts, range(limit), strict=False):
        answer = model.generate(ids, temperature=0, max_tokens=ANSWER_TOKENS)
        yield [*map(int, ids), *answer.ids]


def _lines(model: Any, path: Path) -> Iterator[Any]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield model.encode(line).ids


def _questions(model: Any) -> Iterator[Any]:
    from ingot.eval.nugget import all_questions

    for question in all_questions(60, seed=1):
        yield model.encode(question.messages, thinking=question.thinking).ids


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", nargs="?", help="a directory or hub id (default: the nugget)")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument(
        "--kv", default="f32", help="format of keys and values (default: f32, to see the weights alone)"
    )
    parser.add_argument("--texts", type=Path, metavar="FILE", help="one text a line (default: the nugget's questions)")
    parser.add_argument("--limit", type=int, default=200, help="texts at most")
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
