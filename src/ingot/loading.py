"""From a path or hub id to a running model: files, tokenizer, template, weights in an op set's own form, engine."""

from __future__ import annotations

import logging
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from ingot.beside import eos_ids_of, generation_config_of, preprocessor_of, template_of
from ingot.cached import tokenizer_of, weights_of
from ingot.engine import SPECULATE, Engine
from ingot.engine.answer_records import AnswerRecords
from ingot.engine.disk import Disk
from ingot.fingerprint import fingerprint
from ingot.language_model import LanguageModel
from ingot.memory import available
from ingot.prompt import ChatTemplate, Tokenizer
from ingot.prompt.media import AllowUrls
from ingot.quant import Calibration
from ingot.quant.prompts import read_prompts
from ingot.spec.config import with_yarn
from ingot.spec.formats import FORMATS, held_as
from ingot.store import Checkpoint, open_checkpoint, resolve
from ingot.store.cache import PREFIX, about_prompts, cache_directory
from ingot.store.journal import Journal

log = logging.getLogger("ingot")

BACKENDS = ("native", "torch", "reference")
SCAN_S = 1.0  # that a start waits for the states on disk to be known; what takes longer goes on beside it (taste)
MOST_CACHE = 2 * 2**30  # of the prefix cache unless told: a hundred states of 0.8B, or 80,000 of its tokens (taste)
STORED_FORMATS = {"F32": "f32", "F16": "f32", "BF16": "bf16"}  # stored dtype -> format that holds it exactly


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    backend: str | None = None,
    weights: str | None = None,
    kv: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    yarn: float | None = None,
    accept: Iterable[str] = (),
    calibration: str | os.PathLike[str] | None = None,
    cache: bool | str | os.PathLike[str] = True,
    allow_urls: AllowUrls = False,
    mmproj: str | os.PathLike[str] | None = None,
    prefix_cache: bool | int = True,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    prefix_disk: bool | int = False,
    speculate: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LanguageModel:
    """The model in a Hugging Face checkpoint directory or a GGUF file, or under a hub id ("Qwen/Qwen3.5-0.8B"); None:
    the bundled nugget.

    backend   "native" (C++ kernels), "torch" (needs ingot-lm[torch]; `device` as torch names it) or "reference"
              (numpy). None: native, or reference with a warning where the kernels were not built.
    weights   "f32", "bf16", "q8" or "q4"; None keeps the stored dtype (fp16 becomes f32, a GGUF's quantised types q8,
              the reference computes in f32). q8 and q4 are for the native backend.
    kv        format of keys and values: "f32", "bf16" or "q8" (8.5 bits). None: "f32" for f32 weights, else "bf16";
              torch has "f32" only.
    threads   of the native or torch backend; None: one a core that this process may use.
    yarn      above 1: a context so many times as long as the checkpoint's, by YaRN; short texts suffer a little.
    accept    unknown config keys and patterns of extra tensors to tolerate.
    calibration  a file of prompts for which weights="q4" is rounded (docs/quantisation.md): slow the first time, kept
              in the cache.
    cache     True: what the native backend packs is kept on disk for the next start, where that saves time
              (docs/cache.md); False: neither read nor written; a directory: kept there, whatever the size.
    allow_urls  True: pictures and videos of messages may be http(s) addresses, which are fetched; "private": from
              addresses inside your own network too (docs/pictures.md).
    mmproj    the file with the vision tower of a GGUF model; None: the only mmproj*.gguf beside it.
    prefix_cache  True: what was computed for one prompt is kept for those that begin alike, in an eighth of the memory
              that is free, 2 GiB at most; a number: in so many bytes; False: nothing is kept. For the native backend,
              whose answers are the same bits with and without.
    chat_template_kwargs  variables of the chat template where a call of `chat` does not say otherwise, as
              {"preserve_thinking": True} (docs/prefix_cache.md).
    prefix_disk  True: what the prefix cache has is kept on disk, too, and found there after a restart
              (docs/prefix_disk.md: from such files prompts can be read); a number: in so many bytes at most. None is
              8 GiB, or a tenth of what is free.
    speculate  whether tokens are tried before they are known, several in a pass: "auto" where that is faster, "lookup"
              whenever the text was there before, "off" never; the answers are the same (docs/speculation.md). None:
              "auto" for the native backend; the others never do.
    progress  called with (bytes of weights read, bytes in all) while they are packed.

    Raises ValueError or FileNotFoundError in one sentence that names the argument or the file, the value and the rule.
    """
    _one_of("backend", backend, BACKENDS)
    _one_of("weights", weights, tuple(FORMATS))
    if prefix_disk is not False and not prefix_cache:
        raise ValueError("prefix_disk is set and prefix_cache is not; what is kept on disk is first in memory")
    _one_of("kv", kv, ("f32",) if backend == "torch" else ("f32", "bf16", "q8"))
    if allow_urls not in (False, True, "private"):
        raise ValueError(f"allow_urls is {allow_urls!r}; False, True or 'private' is allowed")
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise ValueError(f"threads is {threads!r}; it must be a positive number")
    path = nugget_path() if model is None else resolve(model)
    _one_of("speculate", speculate, SPECULATE)
    checkpoint = open_checkpoint(path, accept, mmproj)
    if yarn is not None:
        if calibration is not None:
            raise ValueError("calibration and yarn exclude each other; weights are rounded for the checkpoint as it is")
        checkpoint = replace(checkpoint, config=with_yarn(checkpoint.config, yarn))
    ops, fmt = _op_set(backend, weights or stored_format(checkpoint, backend), weights is not None, threads, device)
    kv = kv or ("f32" if fmt == "f32" or backend == "torch" else "bf16")
    place = cache if isinstance(cache, bool) else Path(cache)
    tokenizer = tokenizer_of(checkpoint, place)
    template = template_of(checkpoint) if tokenizer else None
    prompts = None if calibration is None else _calibration(Path(calibration), fmt, ops, tokenizer, template)
    loaded = weights_of(checkpoint, ops, fmt, place, progress, prompts)
    # torch may hold its pools in another memory
    free = available if backend != "torch" else lambda: None
    preprocessor = preprocessor_of(checkpoint)

    def load_vision(pause: Callable[[], None]) -> Any:
        return weights_of(
            checkpoint, ops, held_as("matrix", fmt, "vision"), place, lambda *_: pause(), None, "vision"
        ).root.model.visual

    vocabulary = tokenizer.vocab_size if tokenizer else None
    engine = Engine(
        loaded.root,
        ops,
        checkpoint.config,
        vocabulary,
        kv,
        free,
        load_vision if preprocessor else None,
        _cache_bytes(prefix_cache, ops),
        _speculate(speculate, ops),
    )
    defaults = generation_config_of(checkpoint)
    eos_ids = eos_ids_of(checkpoint, defaults)
    made = LanguageModel(
        checkpoint.path, engine, tokenizer, template, defaults, eos_ids, loaded.written, preprocessor, allow_urls
    )
    made.checkpoint, made.weights = checkpoint, fmt
    if chat_template_kwargs:
        made.chat_template_kwargs = dict(chat_template_kwargs)
        made.encode([{"role": "user", "content": "probe"}])  # or the template's refusal
    if prefix_disk is not False:
        _keep_on_disk(made, prefix_disk, place, prompts)
    return made


def _keep_on_disk(model: LanguageModel, size: bool | int, cache: bool | Path, prompts: Calibration | None) -> None:
    """Give the prefix cache its second tier, in the directory of packed weights."""
    if size is not True and not size > 0:
        raise ValueError(f"prefix_disk is {size!r}; it must be True, False or a number of bytes")
    engine, checkpoint = model.engine, model.checkpoint
    identity = fingerprint(checkpoint, engine.ops, model.weights, engine.states.kv, prompts.digest if prompts else "")
    if identity is None:
        raise ValueError("prefix_disk is set, which backend='torch' has not: its bits are those of one process")
    directory = cache if isinstance(cache, Path) else cache_directory()
    journal = Journal(
        directory / PREFIX,
        identity.hex()[:16],
        identity,
        None if size is True else int(size),
        tell=log.warning,
        about=about_prompts(checkpoint.path),
    )
    journal.wait_scanned(SCAN_S)
    engine.cache.disk = Disk(engine.cache, journal)
    if model.tokenizer is not None:
        model.encoder.answers.records = AnswerRecords(journal)
    weakref.finalize(engine, journal.close)  # at the end of the process, too


def _speculate(speculate: str | None, ops: Any) -> str:
    """What was asked for, or what is best: another backend's rows depend on how many there are."""
    if not hasattr(ops, "packed") and speculate not in (None, "off"):
        raise ValueError(f"speculate is {speculate!r}; only the native backend gives the same answers with drafts")
    return speculate or ("auto" if hasattr(ops, "packed") else "off")


def _cache_bytes(prefix_cache: bool | int, ops: Any) -> int:
    """Bytes of the prefix cache; none where a prompt that is cut otherwise may have other bits."""
    if prefix_cache < 0:
        raise ValueError(f"prefix_cache is {prefix_cache}; it must be True, False or a number of bytes")
    if prefix_cache is not True:
        return int(prefix_cache)
    if not hasattr(ops, "packed"):
        return 0
    return min(MOST_CACHE, (available() or 8 * MOST_CACHE) // 8)


def _calibration(
    path: Path, fmt: str, ops: Any, tokenizer: Tokenizer | None, template: ChatTemplate | None
) -> Calibration:
    if fmt != "q4" or not hasattr(ops, "packed"):
        raise ValueError(f"calibration is {str(path)!r}; only native weights='q4' are calibrated, not {fmt!r}")
    if tokenizer is None:
        raise ValueError(f"calibration is {str(path)!r}, but the model has no tokenizer to read it with")
    return read_prompts(path, tokenizer, template)


def stored_format(checkpoint: Checkpoint, backend: str | None = None) -> str:
    """The weight format that a model takes unless told: the one that holds its weights as stored, or for quantised ones
    q8, which torch has not."""
    return STORED_FORMATS.get(checkpoint.dtype, "f32" if backend == "torch" else "q8")


def nugget_path() -> Path:
    """The directory of the bundled model."""
    return Path(str(resources.files("ingot").joinpath("nugget")))


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise ValueError(f"{name} is {value!r}; {' or '.join(map(repr, allowed))} is allowed")


def _op_set(backend: str | None, fmt: str, asked: bool, threads: int | None, device: str | None) -> tuple[Any, str]:
    """The op set and the weight format it will hold."""
    if device is not None and backend != "torch":
        raise ValueError(f"device is {device!r}, which only backend='torch' has")
    if backend == "torch":
        return _torch(threads, device), fmt
    if backend != "reference":
        try:
            from ingot.ops.native import OpSet

            return OpSet(threads=threads, own_kv="f32" if fmt == "f32" else "bf16"), fmt
        except ImportError as error:
            if backend == "native":
                raise ValueError(f"backend is 'native', but its kernels are not built: {error}") from None
            warnings.warn(
                "Ingot's native kernels are not built: using numpy, 10 to 100 times slower. `ingot doctor` tells why.",
                stacklevel=3,
            )
            threads = None  # a preference about kernels that are not there
    if threads is not None:
        raise ValueError(f"threads is {threads}; the reference backend runs on numpy's own threads")
    from ingot.ops import reference

    return reference, fmt if asked else "f32"


def _torch(threads: int | None, device: str | None) -> Any:
    try:
        import torch
    except ImportError:
        raise ValueError("backend is 'torch', which is not installed\nhint: pip install 'ingot-lm[torch]'") from None
    from ingot.ops.autograd import OpSet

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        torch.empty(0, device=device or "cpu")
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}, which torch cannot use here: {str(error).splitlines()[0]}") from None
    return OpSet(device=device or "cpu")
