"""`ingot chat`: a conversation in the terminal, or one answer on stdout."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from ingot.cli import pictures, sampling
from ingot.cli.conversation import Conversation, read_tools
from ingot.cli.failure import Parser, UsageError
from ingot.cli.terminal import Terminal

NUGGET = "nugget: sums to 999, greetings. A real assistant: ingot chat Qwen/Qwen3.5-0.8B"  # one line of 80 columns
SMALL_BYTES = 64 << 20  # stored weights below it are read fast enough as they are (taste)
CONTEXT_TOKENS = 8192  # what a conversation should have room for when a weight format is chosen
EXAMPLES = """\
examples:
  ingot chat -p "What is 17 + 25?"             the answer alone on stdout
  ingot chat Qwen/Qwen3.5-0.8B --no-think      a conversation; /help lists its commands
  ingot chat models/mine -p - < question.txt   the prompt from a file
  ingot chat Qwen/Qwen3.5-0.8B --image receipt.jpg -p "What did the coffee cost?"
  ingot chat Qwen/Qwen3.5-0.8B --video clip.mp4 -p "What happens?"
  git diff | ingot chat Qwen/Qwen3.5-4B --system "Review this change." --json

exit codes: 0, 1 failure at run time, 2 bad input, 130 after Ctrl-C"""


def parser() -> Parser:
    """The options of `ingot chat`."""
    made = Parser("chat", description="Talk with a model; with -p or a piped prompt: one answer.", epilog=EXAMPLES)
    made.add_argument(
        "model", nargs="?", metavar="MODEL", help="a checkpoint directory, GGUF file or hub id (default: nugget)"
    )
    made.add_argument("-p", "--prompt", metavar="TEXT", help="ask this and leave; - reads it from stdin")
    made.set_defaults(shown=[])
    for kind, what in (("image", "picture"), ("video", "video")):
        made.add_argument(f"--{kind}", metavar="FILE", action=_Shown, help=f"show this {what}; may be repeated")
    made.add_argument("--allow-urls", action="store_true", help="FILE may be an address, which is fetched")
    made.add_argument("--draw", metavar="OUT.png", help="write the picture with the boxes and points of the answer")
    made.add_argument("--max-pixels", metavar="N", type=int, help="see pictures with N pixels at most (1,024 a token)")
    made.add_argument("--system", metavar="TEXT", help="the system message")
    add_thinking(made, "reason before answering, or not (default: the model's)")
    add_preserving(made)
    show = made.add_mutually_exclusive_group()
    show.add_argument(
        "--show-thinking", action="store_true", default=None, help="show the reasoning, on stderr with -p"
    )
    show.add_argument("--hide-thinking", action="store_false", dest="show_thinking", help="never show it")
    made.add_argument("--tools", metavar="FILE.json", help="function definitions the model may call")
    made.add_argument("--json", action="store_true", help="one JSON object with answer, reasoning, calls and counts")
    made.add_argument("--n", type=int, metavar="N", help="N answers, a line of --json each, from seed, seed + 1, ...")
    made.add_argument("--logprobs", action="store_true", help="with --json: how likely each token was to the model")
    made.add_argument("--top-logprobs", type=int, metavar="N", help="beside it the N likeliest, 1 to 20")
    made.add_argument("--no-history", action="store_true", help="neither read nor write the file of past lines")
    sampling.add_sampling(made)
    add_running(made)
    return made


def add_thinking(parser: argparse.ArgumentParser, what: str) -> None:
    """--think and --no-think, into args.think: True, False or None."""
    parser.add_argument("--think", action=_Thinking, help=what)


def add_preserving(parser: Any) -> None:
    """--preserve-thinking, for `load_model`."""
    what = "keep the reasoning of earlier turns in the prompt, which Qwen3.5's template drops (docs/prefix_cache.md)"
    parser.add_argument("--preserve-thinking", action="store_true", help=what)


def add_running(parser: argparse.ArgumentParser) -> None:
    """Options that say how a model runs."""
    group = parser.add_argument_group("running")
    group.add_argument("--backend", choices=("native", "reference", "torch"), help="default: native")
    group.add_argument(
        "--weights",
        choices=("f32", "bf16", "q8", "q4"),
        help="default: q8, or q4 where that does not fit; small models as stored",
    )
    group.add_argument(
        "--kv", choices=("f32", "bf16", "q8"), help="keys and values (default: bf16, f32 beside f32 weights)"
    )
    group.add_argument("--calibration", metavar="FILE", help="prompts for which q4 is rounded (docs/quantisation.md)")
    group.add_argument("--mmproj", metavar="FILE", help="the vision tower of a GGUF model (default: the one beside it)")
    group.add_argument("--no-cache", action="store_true", help="keep no packed weights on disk (see ingot cache)")
    group.add_argument("--threads", type=int, metavar="N", help="default: all processors this process may use")
    group.add_argument(
        "--speculate",
        choices=("auto", "lookup", "off"),
        help="try tokens that the text had before, several in a pass (default: auto, where that is faster)",
    )
    add_yarn(group)


def add_yarn(parser: Any) -> None:
    """--yarn."""
    what = "a context FACTOR times as long, by YaRN (docs/python.md); short texts suffer a little"
    parser.add_argument("--yarn", type=float, metavar="FACTOR", help=what)


def run(args: argparse.Namespace) -> int:
    """Everything that can be wrong with the command line is found before a model is loaded."""
    _check_model(args.model)
    conversation = Conversation(system=args.system, thinking=args.think, sampling=sampling.given(args))
    conversation.max_pixels = args.max_pixels
    conversation.sampling |= _told(args)
    _check_pictures(args)
    if args.tools:
        conversation.tools = read_tools(args.tools)
    prompt = _prompt(args.prompt)
    if prompt is None:
        _check_interactive(args)
    parts = _opened(args) if prompt is not None else []
    if is_nugget(args.model):
        Terminal(sys.stderr).dim(NUGGET + "\n")
    name = args.model or "nugget"
    if prompt is None:
        from ingot.cli.interactive import converse

        return converse(lambda: load_model(args), name, conversation, args)
    from ingot.cli.one_shot import answer_once

    conversation.say(prompt, parts)
    model = load_model(args)
    if parts:
        pictures.check_sees(model)
        _tell_sizes(args, model, parts)
    drawing = (args.draw, parts[0]["image"]) if args.draw else None
    return answer_once(model, name, conversation, args.show_thinking, args.json, drawing)


def _check_model(word: str | None) -> None:
    """A prompt or a picture in MODEL's place."""
    if word is None or os.path.isdir(word):
        return
    if word.lower().endswith(pictures.SUFFIXES) and os.path.isfile(word):
        kind = pictures.kind_of(word)
        raise UsageError(f"MODEL is {word!r}, a file to be shown\nhint: ingot chat MODEL --{kind} {shlex.quote(word)}")
    if len(word.split()) > 2 and os.sep not in word and not os.path.exists(word):
        raise UsageError(
            f"MODEL is {word!r:.80}; there is no such model\nhint: a prompt comes after -p: {asking(word)}"
        )


def asking(prompt: str) -> str:
    """The command that asks the nugget this."""
    return f"ingot chat -p {shlex.quote(prompt) if len(prompt) < 80 else 'TEXT'}"


def is_nugget(model: str | None) -> bool:
    """Whether MODEL means the bundled model: nothing given, or its name where no directory has it."""
    return model is None or (model == "nugget" and not os.path.exists(model))


def load_model(args: argparse.Namespace) -> Any:
    """The model of a command line with MODEL and the options of `add_running`, with a progress line on a terminal."""
    import ingot
    from ingot.cli.progress import Progress

    if args.backend in (None, "native") and importlib.util.find_spec("ingot._native"):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the kernels need no BLAS, and numpy starts 60 ms sooner
    where = None if is_nugget(args.model) else args.model
    if where is not None:
        from ingot.store import resolve

        where = resolve(where)  # a download has its own progress bars
    err = Terminal(sys.stderr)
    weights = args.weights or _weights(args, where, err)
    with Progress(err, f"loading {args.model or 'nugget'}") as line:
        model = ingot.load(
            where,
            backend=args.backend,
            weights=weights,
            kv=args.kv,
            calibration=args.calibration,
            threads=args.threads,
            yarn=args.yarn,
            cache=not args.no_cache,
            allow_urls=getattr(args, "allow_urls", False),
            mmproj=args.mmproj,
            chat_template_kwargs={"preserve_thinking": True} if getattr(args, "preserve_thinking", False) else None,
            prefix_disk=getattr(args, "cache_disk", False),
            speculate=args.speculate,
            progress=line.at_bytes,
        )
    if model.cache_file:
        size = model.cache_file.stat().st_size
        err.dim(f"packed weights kept for the next start: {model.cache_file} ({size / 1e9:.1f} GB; ingot cache)\n")
    return model


def _weights(args: argparse.Namespace, where: Path | None, err: Terminal) -> str | None:
    """The format for a model of which none was asked: q8 if that fits into free memory with 8k of context, else q4.

    None, as stored, where quantising is not worth it or not possible: small models, other backends, no config.
    """
    if where is None or args.backend not in (None, "native") or args.calibration:
        return "q4" if args.calibration else None
    from ingot.store import glance

    seen = glance(where)
    if seen is None or seen[1] < SMALL_BYTES:
        return None
    from ingot.engine import STEP_TOKENS
    from ingot.memory import available
    from ingot.spec.cost import memory

    free = available()
    need = memory(seen[0], "q8", STEP_TOKENS, kv=args.kv or "bf16").total(CONTEXT_TOKENS)
    fmt = "q8" if free is None or need <= free else "q4"
    err.dim(f"weights in {fmt} (--weights bf16: as stored)\n")
    return fmt


def _prompt(text: str | None) -> str | None:
    """The prompt of -p or of stdin; None when a person sits at the terminal."""
    source = "--prompt"
    if text == "-" or (text is None and not (sys.stdin and sys.stdin.isatty())):
        source, text = "stdin", _stdin()
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{source} is not UTF-8 text") from None
    if not text.strip():
        hint = "\nhint: -p TEXT gives the prompt; at a terminal a conversation begins" if source == "stdin" else ""
        raise UsageError(f"{source} is empty; the prompt must have at least one character{hint}")
    return text


def _stdin() -> str:
    """All of stdin, without the last newline, which is the shell's."""
    data = sys.stdin.buffer.read() if sys.stdin else b""  # None after `<&-`
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8 text (byte {error.start})") from None


def _told(args: argparse.Namespace) -> dict[str, Any]:
    """What --json alone can show: several answers, logprobs."""
    asked = {name: value for name in ("n", "logprobs", "top_logprobs") if (value := getattr(args, name))}
    if asked and not args.json:
        raise UsageError(f"{sampling.option(next(iter(asked)))} needs --json\nhint: ingot chat --json -p TEXT")
    if "top_logprobs" in asked:
        asked["logprobs"] = True
    sampling.check_options(asked)
    return asked


def _check_pictures(args: argparse.Namespace) -> None:
    if args.max_pixels is not None and args.max_pixels < 1:
        raise UsageError(f"--max-pixels is {args.max_pixels}; a positive number of pixels is needed")
    for kind, path in args.shown:
        if pictures.is_address(path):
            if not args.allow_urls:
                raise UsageError(f"--{kind} {path} is an address\nhint: --allow-urls fetches it")
            continue
        try:
            pictures.check_is_there(path, kind)
        except OSError as error:
            raise UsageError(f"--{kind} {error}") from None
    if args.draw is not None:
        _check_drawing(args)


def _check_drawing(args: argparse.Namespace) -> None:
    if [kind for kind, _ in args.shown] != ["image"]:
        raise UsageError("--draw needs one picture\nhint: --image FILE shows one")
    place = Path(args.draw)
    if place.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UsageError(f"--draw {args.draw} is no name of a picture; .png, .jpg and .webp are written")
    if place.exists():
        raise UsageError(f"--draw {args.draw} exists; give another name")
    if not place.absolute().parent.is_dir():
        raise UsageError(f"--draw {args.draw}: there is no directory {place.absolute().parent}")


def _opened(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The parts of --image, decoded, and of --video, looked at: a damaged file is told before a model is loaded."""
    if not args.shown:
        if args.max_pixels is not None:
            raise UsageError("--max-pixels is given without a picture\nhint: --image FILE shows one")
        if args.allow_urls:
            raise UsageError("--allow-urls is given without a picture\nhint: --image FILE shows one")
        return []
    if any(kind == "image" for kind, _ in args.shown):
        from ingot.pixels import child

        child.warm()  # it starts while we import
    from ingot.prompt.media import glance, open_image

    parts = []
    for kind, path in args.shown:
        source = open_image(path, args.allow_urls) if kind == "image" else path
        if kind == "video" and not pictures.is_address(path):
            glance(path)
        parts.append(pictures.part(source, kind, args.max_pixels))
    return parts


def _tell_sizes(args: argparse.Namespace, model: Any, parts: list[dict[str, Any]]) -> None:
    """What each picture costs, to a person, before anything is encoded."""
    err = Terminal(sys.stderr)
    for (kind, path), part in zip(args.shown, parts, strict=True):
        if err.tty and not (kind == "video" and pictures.is_address(path)):
            err.dim(pictures.described(model, kind, path, args.max_pixels, part[kind]) + "\n")


def _check_interactive(args: argparse.Namespace) -> None:
    if args.json:
        raise UsageError("--json needs a prompt\nhint: ingot chat --json -p TEXT")
    if not sys.stdout.isatty():
        raise UsageError(
            "stdout is not a terminal, which a conversation needs\nhint: ingot chat -p TEXT gives one answer"
        )


class _Shown(argparse.Action):
    """--image and --video into one list of (kind, file), in the order given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.shown = [*namespace.shown, (self.dest, values)]


class _Thinking(argparse.Action):
    """--think and --no-think into one value; None when neither is given."""

    def __init__(self, option_strings: list[str], dest: str, **settings: Any) -> None:
        super().__init__([*option_strings, "--no-think"], dest, nargs=0, **settings)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, option_string != "--no-think")
