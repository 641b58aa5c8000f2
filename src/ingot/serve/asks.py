"""From a request's JSON to jobs for the engine: what OpenAI's fields mean here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ingot.answering import Job
from ingot.language_model import CHAT_TOKENS, LanguageModel
from ingot.options import SAMPLING, Options
from ingot.prompt import Medium, normalise_messages
from ingot.serve import fields
from ingot.serve.errors import ApiError, bad
from ingot.serve.limits import most
from ingot.serve.plan import Plan
from ingot.spec.text_file import shown

COMPLETION_TOKENS = 16  # of a completion where max_tokens is not given: OpenAI's
_OPTIONS = ("n", "stop", "stop_token_ids", "min_tokens", "ignore_eos", "preset", "dry_sequence_breakers")
_CACHING = ("cache_prompt", "cache_salt")


@dataclass(frozen=True)
class Ask:
    """A request that can run: one job a prompt, what all share, how the answer is wanted, pixels of its pictures."""

    jobs: Sequence[Job]
    options: Options
    chat: bool
    stream: bool = False
    include_usage: bool = False
    pixels: int = 0
    debug_cache: bool = False


def chat(body: Mapping[str, Any], model: LanguageModel, name: Sequence[str], plan: Plan) -> Ask:
    """Of POST /v1/chat/completions."""
    given = _given(body, fields.CHAT, name, "messages")
    check_length("messages", [check_media(given["messages"]), given.get("tools")], plan.context)
    tools = given.get("tools") if given.get("tool_choice", "auto") == "auto" else None
    _check_strict(given.get("tools", ()))
    limit = _max_tokens(given)
    options = _options(given, limit or CHAT_TOKENS, given.get("logprobs", False), given.get("top_logprobs", 0))
    job = model.chat_job(given["messages"], tools, thinking(given), options, **template_variables(given))
    return _fitting([job], options, given, limit, model, plan, chat=True)


def completion(body: Mapping[str, Any], model: LanguageModel, name: Sequence[str], plan: Plan) -> Ask:
    """Of POST /v1/completions."""
    given = _given(body, fields.COMPLETION, name, "prompt")
    top, limit = given.get("logprobs"), given.get("max_tokens")
    options = _options(given, limit or COMPLETION_TOKENS, top is not None, 0 if top is None else top)
    prompts = _prompts(given["prompt"])
    for prompt in prompts:
        check_length("prompt", prompt, plan.context)
    several = len(prompts) > 1
    jobs = [model.text_job(one, options, f"prompt[{i}]" if several else "") for i, one in enumerate(prompts)]
    return _fitting(jobs, options, given, limit, model, plan, chat=False)


def thinking(given: Mapping[str, Any]) -> bool | None:
    """Whether to think; None: as the template has it."""
    asked: bool | None = given.get("chat_template_kwargs", {}).get("enable_thinking")
    if "reasoning_effort" not in given:
        return asked
    if asked:
        raise bad("reasoning_effort is 'none', but enable_thinking is true; one of them is wrong", "reasoning_effort")
    return False


def template_variables(given: Mapping[str, Any]) -> dict[str, Any]:
    """What else the template is told."""
    return {name: value for name, value in given.get("chat_template_kwargs", {}).items() if name != "enable_thinking"}


def check_media(messages: Sequence[Any]) -> Sequence[Any]:
    """The messages with their pictures as Media; ApiError unless each is a data: URL: a server reads no files and
    fetches nothing for its clients."""
    normalised = normalise_messages(messages)
    media = [
        part
        for message in normalised
        if isinstance(message["content"], list)
        for part in message["content"]
        if isinstance(part, Medium)
    ]
    if len(media) > most("images"):
        raise bad(f"messages hold {len(media)} pictures; {most('images')} are the most", "messages")
    for medium in media:
        frames = medium.source if medium.kind == "video" and isinstance(medium.source, list) else [medium.source]
        if len(frames) > most("frames"):
            raise bad(f"{medium.where} has {len(frames)} frames; {most('frames')} are the most", medium.where)
        for frame in frames:
            if not isinstance(frame, str) or not frame.startswith("data:"):
                rule = "it must be a data: URL, for the server opens no files and no addresses"
                raise bad(f"{medium.where} is {shown(frame)}; {rule}", medium.where)
    return normalised


def check_length(name: str, value: Any, context: int) -> None:
    """ApiError for more text than `context` tokens can be, before it is rendered and encoded: that takes seconds and
    gigabytes."""
    characters, most_characters = _characters(value), most("density") * context
    if characters > most_characters:
        message = f"{name} has {characters:,} characters; {most_characters:,} are the most for {context:,} tokens"
        raise ApiError(400, message, name, "context_length_exceeded")


def _characters(value: Any) -> int:
    """Of all texts in a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _characters(one) for key, one in value.items())
    return sum(map(_characters, value)) if isinstance(value, list) else 0


def check_ids(name: str, ids: Sequence[int], model: LanguageModel) -> None:
    """ApiError for an id that the model does not have."""
    wrong = [index for index in ids if not 0 <= index < model.engine.vocabulary]
    if wrong:
        rule = f"this model's token ids are 0 to {model.engine.vocabulary - 1}"
        raise bad(f"{name} holds {shown(wrong[0])}; {rule}", name)


def check_model(given: Mapping[str, Any], names: Sequence[str]) -> None:
    """ApiError 404 for a model that is not here; none given means the one that is."""
    if given.get("model", names[0]) not in names:
        there = " or ".join(map(repr, names))
        message = f"the model {shown(given['model'])} is not here; {there} is"
        raise ApiError(404, message, "model", "model_not_found")


def _given(
    body: Mapping[str, Any], table: Mapping[str, fields.Check], names: Sequence[str], needed: str
) -> dict[str, Any]:
    given = fields.checked(body, table)
    check_model(given, names)
    if needed not in given:
        raise bad(f"{needed} is missing; it is needed", needed, "missing_required_parameter")
    if "stream_options" in given and not given.get("stream"):
        raise bad("stream_options is given, but stream is not true", "stream_options")
    return given


def _options(given: Mapping[str, Any], max_tokens: int, logprobs: bool, top: Any) -> Options:
    said = {name: given[name] for name in (*_OPTIONS, *_CACHING) if name in given}
    sampling = {name: given[name] for name in SAMPLING if name in given}
    return Options(max_tokens=max_tokens, logprobs=logprobs, top_logprobs=top, sampling=sampling, **said)


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    old, new = given.get("max_tokens"), given.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise bad(f"max_tokens is {old} and max_completion_tokens is {new}; give one of them", "max_tokens")
    return new if old is None else old


def _check_strict(tools: Sequence[Any]) -> None:
    for place, tool in enumerate(tools):
        function = tool.get("function")
        if isinstance(function, dict) and function.get("strict"):
            where = f"tools[{place}].function.strict"
            raise bad(f"{where} is true; arguments are not held to a schema yet", where, "unsupported_value")


def _prompts(prompt: Any) -> list[Any]:
    """The prompts of a completion: a text, token ids, or a list of those."""
    if isinstance(prompt, str) and prompt:
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise bad(f"prompt is {shown(prompt)}; it must be a text, token ids, or a list of those", "prompt")
    if all(type(item) is int for item in prompt):
        return [prompt]
    if len(prompt) > most("prompts"):
        raise bad(f"prompt has {len(prompt)} prompts; {most('prompts')} are the most", "prompt")
    for place, one in enumerate(prompt):
        is_ids = isinstance(one, list) and all(type(i) is int for i in one)
        if not one or not (isinstance(one, str) or is_ids):
            raise bad(f"prompt[{place}] is {shown(one)}; it must be a text or token ids", f"prompt[{place}]")
    return prompt


def _fitting(
    jobs: list[Job],
    options: Options,
    given: Mapping[str, Any],
    limit: int | None,
    model: LanguageModel,
    plan: Plan,
    chat: bool,
) -> Ask:
    """The request, if the plan has room for it; what was not said about max_tokens fills the room at most."""
    if options.n > min(plan.parallel, most("n")):
        raise bad(f"n is {options.n}; this server gives {min(plan.parallel, most('n'))} answers to a prompt", "n")
    fit = [plan.fitted(_with_priority(job, given.get("priority", 0)), limit) for job in jobs]
    for job in fit:
        model.engine.checked(job.request)
    check_ids("stop_token_ids", options.stop_token_ids, model)
    usage = given.get("stream_options", {}).get("include_usage", False)
    debug = given.get("debug", {}).get("cache", False)
    return Ask(fit, options, chat, given.get("stream", False), usage, _pixels(fit, model), debug)


def _with_priority(job: Job, priority: int) -> Job:
    return replace(job, request=replace(job.request, priority=priority))


def _pixels(jobs: Sequence[Job], model: LanguageModel) -> int:
    """Pixels of all pictures: they are kept until the engine has seen them."""
    vision = model.config.vision
    if vision is None:
        return 0
    return sum(prod(visual.grid) * vision.patch_size**2 for job in jobs for visual in job.request.visuals)
