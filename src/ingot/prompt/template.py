"""Messages to prompt text: the checkpoint's own chat template, or ours when it has none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from threading import Lock
from typing import Any

from ingot.prompt.messages import Medium, normalise_messages, normalise_tools, take_media
from ingot.prompt.outside_text import check_unicode, read_json_object, read_text
from ingot.spec.text_file import one_line

# Characters of source. The official ones have under 8,000; hostile ones of this length take seconds to compile.
SOURCE_LIMIT = 100_000
_PROBE = [{"role": "user", "content": "probe"}]
# How Qwen3.5's templates ask whether a turn is rendered with its reasoning. Those of Qwen3.6 ask for the variable, too.
_IS_RECENT = "loop.index0 > ns.last_query_index"
_NAMES_OF_RENDER = ("messages", "tools", "documents", "add_generation_prompt", "enable_thinking")


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template: its source, where it comes from, and the texts of bos_token, eos_token, ... that it may name.

    `tool_source` is a second source used when tools are given (tokenizer_config.json can hold several named ones).
    """

    source: str
    origin: str = "template"
    tool_source: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_directory(cls, path: str | Path) -> ChatTemplate:
        """The template of the checkpoint directory `path`: chat_template.jinja, else `chat_template` of
        tokenizer_config.json (a text, or a list of named ones), else Ingot's own.

        Raises ValueError naming the file that cannot be read.
        """
        directory = Path(path)
        config_path = directory / "tokenizer_config.json"
        config = read_json_object(config_path) if os.path.lexists(config_path) else {}
        special_tokens = _special_tokens(config)
        own_file = directory / "chat_template.jinja"
        if os.path.lexists(own_file):
            return cls(read_text(own_file), str(own_file), special_tokens=special_tokens)
        named = _named_sources(config.get("chat_template"), config_path)
        if named:
            return cls(named["default"], str(config_path), named.get("tool_use"), special_tokens)
        return default_template()

    @cached_property
    def default_thinking(self) -> bool:
        """Whether a prompt rendered with thinking=None ends in an open `<think>`: the checkpoint's own default."""
        return opens_thinking(render(_PROBE, template=self))


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    template: ChatTemplate | str | None = None,
    add_generation_prompt: bool = True,
    thinking: bool | None = None,
    **variables: Any,
) -> str:
    """The prompt text of OpenAI-style `messages` and `tools` under `template` (None: Ingot's own).

    thinking True or False sets `enable_thinking`; None leaves it unset, so that the template's own default holds.
    Other keyword arguments are handed to the template. `preserve_thinking=True` keeps the reasoning of all turns, under
    Qwen3.5's templates too, which do not know it. Raises ValueError for malformed messages or tools, for a template
    that refuses them, fails, or exceeds the sandbox's bounds.
    """
    return render_with_media(messages, tools, template, add_generation_prompt, thinking, **variables)[0]


def render_with_media(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    template: ChatTemplate | str | None = None,
    add_generation_prompt: bool = True,
    thinking: bool | None = None,
    **variables: Any,
) -> tuple[str, list[Medium]]:
    """`render`, and the pictures and videos of the messages in their order."""
    chosen = _as_template(template)
    clash = sorted(set(variables) & set(_NAMES_OF_RENDER))
    if clash:
        raise ValueError(f"template variable {clash[0]!r} is set by render itself; use its own argument.")
    if thinking is not None:
        if not isinstance(thinking, bool):
            raise ValueError(f"thinking is {thinking!r}; it must be True, False or None (the template's default).")
        variables["enable_thinking"] = thinking
    tool_list = normalise_tools(tools)
    bare, media = take_media(normalise_messages(messages))
    values = {
        **chosen.special_tokens,
        **variables,
        "messages": bare,
        "tools": tool_list,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    source = chosen.tool_source if tool_list and chosen.tool_source else chosen.source
    if variables.get("preserve_thinking") is True:
        source = _preserving(source, chosen.origin)
    return _run(source, chosen.origin, values), media


def default_thinking(template: ChatTemplate | str) -> bool:
    """Whether `template` opens a thinking block when it is not told either way."""
    return _as_template(template).default_thinking


def opens_thinking(prompt: str) -> bool:
    """Whether the model continues `prompt` inside a thinking block: it ends in an open `<think>`."""
    return prompt.rstrip().endswith("<think>")


@lru_cache(maxsize=1)
def default_template() -> ChatTemplate:
    """Ingot's own template, in the Qwen3.5 wire format; its variable `thinking_default` is used when thinking=None."""
    source = resources.files("ingot.prompt").joinpath("default_template.jinja").read_text(encoding="utf-8")
    return ChatTemplate(source, "Ingot's own chat template")


def _preserving(source: str, origin: str) -> str:
    """A template that takes `preserve_thinking`: itself, or one of Qwen3.5's that was taught to."""
    if "preserve_thinking" in source:
        return source
    if source.count(_IS_RECENT) != 1:
        raise ValueError(f"preserve_thinking is True, but {origin} has no way to keep the reasoning of earlier turns.")
    return source.replace(_IS_RECENT, f"(preserve_thinking or {_IS_RECENT})")


def _as_template(template: ChatTemplate | str | None) -> ChatTemplate:
    if template is None:
        return default_template()
    return ChatTemplate(template) if isinstance(template, str) else template


def _run(source: str, origin: str, values: dict[str, Any]) -> str:
    from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError

    from ingot.prompt.sandbox import RaisedByTemplateError

    try:
        environment, compiled, lock = _compiled(origin, source)
        with lock:  # the sandbox counts one rendering at a time
            environment.begin()
            return str(compiled.render(values))
    except RaisedByTemplateError as error:
        raise ValueError(f"{origin} does not accept these messages: {_reason(error)}") from error
    except TemplateSyntaxError as error:
        raise ValueError(f"{origin} is not a valid chat template (line {error.lineno}): {_reason(error)}.") from error
    except SecurityError as error:
        raise ValueError(f"{origin} was stopped: {_reason(error)}.") from error
    except UndefinedError as error:
        raise ValueError(f"{origin} uses a value that these messages do not have: {_reason(error)}.") from error
    except (RecursionError, MemoryError) as error:  # Python's own parser calls too deep a source out of memory
        raise ValueError(f"{origin} was stopped: it nests too deeply.") from error
    except Exception as error:  # a template can raise whatever Python can
        raise ValueError(f"{origin} failed: {type(error).__name__}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """What an error says; a template chooses its words."""
    return one_line(str(getattr(error, "message", None) or error))


@lru_cache(maxsize=8)
def _compiled(origin: str, source: str) -> tuple[Any, Any, Lock]:
    from ingot.prompt.sandbox import Sandbox

    if len(source) > SOURCE_LIMIT:
        raise ValueError(f"{origin} has {len(source)} characters; a chat template may have {SOURCE_LIMIT}.")
    check_unicode(source, origin)
    environment = Sandbox()
    return environment, environment.from_string(source), Lock()


def _named_sources(value: Any, path: Path) -> dict[str, str]:
    """`chat_template` of tokenizer_config.json as {name: source}; empty when there is none."""
    if value is None:
        return {}
    entries = [{"name": "default", "template": value}] if isinstance(value, str) else value
    try:
        named = {entry["name"]: entry["template"] for entry in entries}
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} has a chat_template that is neither a text nor a list of named ones.") from error
    if "default" not in named:
        raise ValueError(f"{path} has chat templates named {sorted(named)}; one of them must be 'default'.")
    return named


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, ... as texts: a template may write them. They can be stored as AddedToken objects."""
    found = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
