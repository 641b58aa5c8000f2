"""Words: the tokenizer's round trips and known ids, the template's turns and tool calls."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ingot.prompt import OutputParser, StreamDecoder, Tokenizer, opens_thinking, render
from ingot.verify.check import FailedError, Found
from ingot.verify.samples import CONVERSATION, TEXTS
from ingot.verify.subject import Subject

OFFICIAL_SIZE, IM_END = 248_077, 248_046  # ids of the official vocabulary, and of <|im_end|> in it
# Published facts of the official vocabulary: it encodes these texts so.
KNOWN = {
    "The capital of France is Paris.": [760, 6511, 314, 9338, 369, 11751, 13],
    "def add(a, b):\n    return a + b\n": [727, 884, 2784, 11, 292, 1590, 198, 262, 460, 264, 478, 292, 198],
    "12345 + 67890": [16, 17, 18, 19, 20, 478, 220, 21, 22, 23, 24, 15],
    "<|im_start|>user\nHi<|im_end|>\n": [248045, 846, 198, 12675, 248046, 198],
    "<think>\n\n</think>\n\n": [248068, 271, 248069, 271],
    "   indented\n\n\n\ttabs": [256, 1214, 15397, 1358, 3139, 3325],
    "I'm sure they'll say it's fine.": [40, 2688, 2617, 781, 3172, 1910, 424, 579, 6699, 13],
    "🙂🚀": [169171, 9008, 248, 222],
    "https://example.com/a?b=c&d=e": [2349, 1074, 8422, 877, 13780, 30, 65, 18941, 5, 67, 39054],
    "<tool_call>\n<function=f>\n": [248058, 198, 27, 1628, 17572, 29, 198],
}
# None that Unicode would compose: the official tokenizer composes, and cannot give back what it composed.
HARD = ("", " ", "\n\n \t\r\n", "a" * 300, "\x00\x7f", "\u00e9\u200d\u202e", "\U0001f469\u200d\U0001f4bb", "İıſK")
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
OFFICIAL_TEMPLATES = {
    "273d8e0e683b885071fb17e08d71e5f2a5ddfb5309756181681de4f5a1822d80": "Qwen3.5 0.8B and 2B",
    "a4aee8afcf2e0711942cf848899be66016f8d14a889ff9ede07bca099c28f715": "Qwen3.5 4B and 9B",
    "e84f32a23fdda27689f868aa4a1a5621f41133e51a48d7f3efcbea2839574259": "Qwen3.6",
}
CALL = {"city": "Köln\n<b>", "days": 3, "exact": True, "places": ["a", {"b": None}]}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "forecast",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
                "places": {"type": "array"},
            },
        },
    },
}


def tokenizer(subject: Subject) -> Found:
    """Texts come back as they were, at once and as a stream; the official vocabulary gives the known ids."""
    found = subject.tokenizer
    texts = [*TEXTS.values(), *HARD]
    for text in texts:
        ids = found.encode(text)
        streamed = StreamDecoder(found, skip_special=False)
        if found.decode(ids) != text or "".join(map(streamed.push, ids)) + streamed.finish() != text:
            raise FailedError(f"{text[:40]!r} comes back as {found.decode(ids)[:40]!r}", {"text": text, "ids": ids})
    for token in CONTROL:
        if found.has_token(token) and found.encode(token) != [found.token_id(token)]:
            raise FailedError(f"{token} is {found.encode(token)}, not its one id {found.token_id(token)}")
    official = _is_official(found)
    for text, ids in KNOWN.items() if official else ():
        if found.encode(text) != ids:
            raise FailedError(f"{text!r} is {found.encode(text)}; the official vocabulary has {ids}")
    data = {"ids": found.vocab_size, "official": official, "digest": _ids_digest(found)}
    vectors = f"; {len(KNOWN)} known texts have the official ids" if official else "; not the official vocabulary"
    return f"{len(texts)} texts come back{vectors}", data


def _is_official(found: Tokenizer) -> bool:
    return (
        found.vocab_size == OFFICIAL_SIZE and found.has_token("<|im_end|>") and found.token_id("<|im_end|>") == IM_END
    )


def _ids_digest(found: Tokenizer) -> str:
    return hashlib.sha256(json.dumps([found.encode(text) for text in (*TEXTS.values(), *HARD)]).encode()).hexdigest()


def template(subject: Subject) -> Found:
    """Turns, both thinking modes, and a tool call that the parser reads back."""
    chosen = subject.template
    shown = {mode: render(CONVERSATION, template=chosen, thinking=mode) for mode in (None, True, False)}
    for mode, text in shown.items():
        _check_turns(text)
        if mode is not None and opens_thinking(text) is not mode:
            raise FailedError(f"with thinking={mode} the prompt ends in {text[-30:]!r}")
    _check_tools(subject)
    name = OFFICIAL_TEMPLATES.get(hashlib.sha256(chosen.source.encode()).hexdigest(), "")
    data = {
        "official": name or None,
        "thinks": opens_thinking(shown[None]),
        "sha256": hashlib.sha256(chosen.source.encode()).hexdigest(),
        "digest": hashlib.sha256("".join(shown.values()).encode()).hexdigest(),
    }
    text = f"that of {name}" if name else "not one of the official ones known here"
    return f"turns, thinking and tool calls are right; {text}", data


def _check_turns(text: str) -> None:
    at = 0
    for message in CONVERSATION:
        turn = f"<|im_start|>{message['role']}\n"
        begin = text.find(turn, at)
        place = text.find(message["content"], begin)
        end = text.find("<|im_end|>\n", begin)
        if begin < 0 or not begin < place < end:
            raise FailedError(f"the turn {turn.strip()!r} does not hold {message['content']!r}", {"prompt": text})
        at = end
    if not text[at:].startswith("<|im_end|>\n<|im_start|>assistant\n"):
        raise FailedError(f"after the last question comes {text[at : at + 60]!r}", {"prompt": text})


def _check_tools(subject: Subject) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "forecast", "arguments": CALL}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    history = [CONVERSATION[0], turn, {"role": "tool", "tool_call_id": "call_1", "content": "RESULT 17"}]
    text = render(history, [TOOL], subject.template, thinking=False)
    begin, end = text.rfind("<tool_call>"), text.rfind("</tool_call>")
    parser = OutputParser(thinking=False, tools=[TOOL])
    parser.feed(text[begin : end + len("</tool_call>")] if begin >= 0 else "")
    calls = parser.finish(truncated=False).tool_calls
    if not calls or json.loads(calls[0]["function"]["arguments"]) != CALL:
        raise FailedError(f"a tool call comes back as {calls!r:.120}", {"prompt": text})
    if "RESULT 17" not in text[end:] or '"forecast"' not in text[: text.find("<|im_end|>")]:
        raise FailedError("the tools or a tool's result are not in the prompt", {"prompt": text})
