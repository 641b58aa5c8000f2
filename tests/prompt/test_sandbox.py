"""Hostile and broken templates: each gives one clear error, soon."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from ingot.prompt import ChatTemplate, render
from ingot.prompt.sandbox import Sandbox

HI = [{"role": "user", "content": "hi"}]
GROW = "{%% set ns = namespace(s=%s) %%}{%% for i in range(60) %%}%s{%% endfor %%}{{ ns.s }}"
NEST = (
    "{%% set ns = namespace(s='a') %%}{%% for i in range(60) %%}{%% set n = namespace() %%}"
    "{%% set n.a = ns.s %%}{%% set n.b = ns.s %%}{%% set ns.s = n %%}{%% endfor %%}{{ %s }}"
)
SIZE = "builds a text or list of more than 32000000 characters"
COUNT = "over 100000"
FORMAT = "width of five digits"

HOSTILE = {
    "huge range": ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
    "power": ("{{ 10 ** 10000 }}", "it computes 10 ** 10000"),
    "squares": (GROW % ("3", "{% set ns.s = ns.s * ns.s %}"), "an integer of"),
    "repetition": ("{{ 'a' * 10**10 }}", SIZE),
    "repeated list": ("{{ ([1] * 10**9) | length }}", SIZE),
    "doubling by tilde": (GROW % ("'ab'", "{% set ns.s = ns.s ~ ns.s %}"), SIZE),
    "doubling by plus": (GROW % ("'ab'", "{% set ns.s = ns.s + ns.s %}"), SIZE),
    "doubling by capture": (GROW % ("'ab'", "{% set c %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = c %}"), SIZE),
    "doubling by macro": (
        "{% macro m(s) %}{{ s }}{{ s }}{% endmacro %}" + GROW % ("'ab'", "{% set ns.s = m(ns.s) %}"),
        SIZE,
    ),
    "doubling lists": (GROW % ("['ab']", "{% set ns.s = [ns.s, ns.s] %}"), SIZE),
    "doubling dicts": (GROW % ("{}", "{% set ns.s = dict(a=ns.s, b=ns.s) %}"), SIZE),
    "doubling namespaces": (GROW % ("1", "{% set ns.s = namespace(a=ns.s, b=ns.s) %}"), SIZE),
    "doubling namespaces, printed": (NEST % "ns.s", SIZE),
    "doubling namespaces, tilde": (NEST % "ns.s ~ ''", SIZE),
    "doubling namespaces, filter": (NEST % "ns.s | string | length", SIZE),
    "doubling namespaces, operator": (NEST % "'%s' % ns.s", SIZE),
    "doubling namespaces, format": (NEST % "'{}'.format(ns.s)", SIZE),
    "endless output": ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", SIZE),
    "replace method": ("{% set a = 'a' * 1000000 %}{{ a.replace('a', a) }}", SIZE),
    "replace filter": ("{% set a = 'a' * 1000000 %}{{ a | replace('a', a) }}", SIZE),
    "join method": ("{% set a = 'a' * 1000000 %}{{ a.join(range(1000) | map('string')) }}", SIZE),
    "join filter": ("{% set a = 'a' * 1000000 %}{{ range(1000) | join(a) }}", SIZE),
    "indent filter": ("{{ ('\n' * 1000000) | indent(100000) }}", SIZE),
    "center filter": ("{{ 'a' | center(10**10) }}", COUNT),
    "center method": ("{{ 'a'.center(10**10) }}", COUNT),
    "batch filter": ("{{ [1] | batch(10**10, 'x') | list }}", COUNT),
    "json indent": ("{{ messages | tojson(indent=10**8) }}", "an indent over 16"),
    "format filter": ("{{ '%10000000000d' | format(1) }}", FORMAT),
    "format operator": ("{{ '%10000000000d' % 1 }}", FORMAT),
    "format operator, width given": ("{{ '%*d' % (10**10, 1) }}", FORMAT),
    "format method": ("{{ '{:10000000000}'.format(1) }}", FORMAT),
    "format method, width given": ("{{ '{:{}}'.format(1, 10**9) }}", COUNT),
    "bytes": ("{{ ('a'.encode() * 10**10) | length }}", "calls encode"),
    "translate": ("{{ 'a'.translate({97: 'bb'}) }}", "calls translate"),
    "random text": ("{{ lipsum(10**7) }}", "'lipsum' is undefined"),
    "dropped filter": ("{{ 'a' | urlize }}", "No filter named 'urlize'"),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nests too deeply"),
    "nested blocks": ("{% if 1 %}" * 300 + "{% endif %}" * 300, "nests too deeply"),
    "nested brackets": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nests too deeply"),
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "'__class__' of 'str' object is unsafe"),
    "globals": ("{{ cycler.__init__.__globals__ }}", "is unsafe"),
    "changing the messages": ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
    "include": ("{% include 'x' %}", "no loader"),
    "import": ("{% import 'os' as os %}", "no loader"),
    "raise_exception": ("{{ raise_exception('not like this') }}", "does not accept these messages: not like this"),
    "syntax": ("line 1\n{% if %}", "not a valid chat template (line 2)"),
    "unclosed": ("{% for m in messages %}", "not a valid chat template"),
    "undefined": ("{{ nothing.at.all }}", "'nothing' is undefined"),
    "type error": ("{{ 1 + 'a' }}", "failed: TypeError"),
    "division": ("{{ 1 / 0 }}", "failed: ZeroDivisionError"),
}


@pytest.mark.parametrize(("source", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_template(source: str, message: str) -> None:
    started = time.thread_time()
    with pytest.raises(ValueError) as caught:
        render(HI, template=ChatTemplate(source, "shady.jinja"))
    assert message in str(caught.value)
    assert str(caught.value).startswith("shady.jinja ")
    assert "\n" not in str(caught.value)
    assert time.thread_time() - started < 30  # milliseconds to a second; the bound is for a slow machine


LOOPS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops that skip": "{% for i in range(999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops over text": "{% for a in 'x' * 9999 %}{% for b in 'x' * 9999 %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for i in range(99) recursive %}{{ loop(range(99)) if loop.depth < 9 }}{% endfor %}",
    "macro tree": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "shadowed name": "{% set environment = 1 %}{% set step = 1 %}{% for i in range(99999) %}{% endfor %}",
    "call blocks": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 18
    + "x"
    + "{% endcall %}" * 18,
}


@pytest.mark.parametrize("source", LOOPS.values(), ids=LOOPS)
def test_steps_are_bounded(source: str) -> None:
    environment = Sandbox(steps=10_000)
    with pytest.raises(Exception, match=r"more than 10000 loop turns|recursion"):
        environment.from_string(source).render()


def test_time_is_bounded() -> None:
    environment = Sandbox(seconds=0.05)
    with pytest.raises(Exception, match=r"more than 0\.05 seconds"):
        environment.from_string(LOOPS["loops"]).render()


def test_every_rendering_has_its_own_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.prompt.sandbox.Sandbox", partial(Sandbox, steps=100))
    source = "{% for i in range(n) %}{% endfor %}done"
    assert [render(HI, template=source, n=90) for _ in range(3)] == ["done"] * 3
    with pytest.raises(ValueError, match="template was stopped: it takes more than 100 loop turns"):
        render(HI, template=source, n=110)


def test_nothing_of_a_template_runs_while_it_is_compiled() -> None:
    environment, ran = Sandbox(), []
    environment.filters["note"] = ran.append
    environment.from_string("{{ 'a' | note }}")
    assert ran == []


def test_a_long_conversation_is_within_the_bounds() -> None:
    from tests.prompt.official import TEMPLATES

    turn = [{"role": "user", "content": "a" * 500}, {"role": "assistant", "content": "b" * 500}]
    prompt = render(turn * 2000, template=TEMPLATES["4B_9B"])
    assert len(prompt) > 2_000_000


def test_ordinary_templates_are_not_disturbed() -> None:
    source = (
        "{% set t = ('a', 'b') %}{% for x, y in [(1, 2), (3, 4)] if x > 1 %}{{ x ~ '-' ~ y }}{% endfor %}"
        "{{ t[1] }}{{ [1, 2, 3][::-1] }}{{ {'k': 'v'}.k }}{{ '%s: %d%%' % ('a', 5) }}{{ '{} of {}'.format(1, 2) }}"
        "{{ ['a', 'b'] | join(', ') }}{{ 'x' in ['x'] }}{{ 'a-b'.split('-') | last }}{{ 'A' | lower | indent }}"
        "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    assert render(HI, template=source) == "3-4b[3, 2, 1]va: 5%1 of 2a, bTrueba02"


BAD_FILES = {
    "binary": (b"\xff\xfe", "chat_template.jinja is not UTF-8 (byte 0)"),
    "too long": (b"x" * 1_000_001, "chat_template.jinja has 1000001 characters"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_template_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        render(HI, template=ChatTemplate.from_directory(tmp_path))
    assert message in str(caught.value)


BAD_CONFIGS = {
    "truncated": ('{"chat_template": "x', "tokenizer_config.json is not valid JSON"),
    "a list": ("[]", "tokenizer_config.json holds a JSON list"),
    "a number": ('{"chat_template": 5}', "neither a text nor a list of named ones"),
    "nameless": ('{"chat_template": [{"template": "x"}]}', "neither a text nor a list of named ones"),
    "no default": ('{"chat_template": [{"name": "rag", "template": "x"}]}', "one of them must be 'default'"),
}


@pytest.mark.parametrize(("content", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_bad_template_config(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError) as caught:
        ChatTemplate.from_directory(tmp_path)
    assert message in str(caught.value)


def test_variables_of_render_cannot_be_given_twice() -> None:
    with pytest.raises(ValueError, match="'enable_thinking' is set by render itself"):
        render(HI, enable_thinking=True)
    with pytest.raises(ValueError, match="thinking is 'yes'; it must be True, False or None"):
        render(HI, thinking="yes")  # type: ignore[arg-type]
