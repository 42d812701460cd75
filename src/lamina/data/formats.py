"""One pure function per schema: from a raw record to a ``Conversation``.

The schemas are the ones people have: Alpaca, ShareGPT, OpenAI messages, prompt/completion in its many spellings, text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from lamina.records import Conversation, Message, Role

__all__ = ["SCHEMAS", "BadRowError", "Schema", "detect_schema"]

Record = Mapping[str, Any]

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)} | {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_call": "assistant",
}
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "chosen"),
    ("instruction", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("query", "answer"),
    ("input", "output"),
    ("text", "label"),
    ("text", "category"),
    ("source", "target"),
)


class BadRowError(Exception):
    """A record that does not fit its schema. The message says what was expected and found."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A way to write a row: its name for people, whether a record's keys show it, and how to read one."""

    title: str
    fits: Callable[[frozenset[str]], bool]
    read: Callable[[Record], Conversation]


def detect_schema(record: Record) -> str | None:
    """Return the name of the first schema whose keys ``record`` has, or None."""
    keys = frozenset(record)
    return next((name for name, schema in SCHEMAS.items() if schema.fits(keys)), None)


def _messages(record: Record) -> Conversation:
    if "tools" in record or "functions" in record:
        raise BadRowError("the key 'tools' would change the prompt; expected the tools written into a system message")
    return _conversation(_turns(record["messages"], role_key="role", content_key="content"))


def _sharegpt(record: Record) -> Conversation:
    turns = list(_turns(record["conversations"], role_key="from", content_key="value"))
    if isinstance(record.get("system"), str) and record["system"]:
        turns.insert(0, Message("system", record["system"]))
    return _conversation(turns)


def _alpaca(record: Record) -> Conversation:
    asked = _text(record["instruction"], "instruction")
    extra = _text(record.get("input") or "", "input")
    turns = [Message("user", f"{asked}\n\n{extra}" if extra else asked)]
    if record.get("system"):
        turns.insert(0, Message("system", _text(record["system"], "system")))
    return _conversation([*turns, Message("assistant", _text(record["output"], "output"))])


def _pair(record: Record) -> Conversation:
    asked_key, answer_key = next(pair for pair in _PAIRS if pair[0] in record and pair[1] in record)
    asked, answer = record[asked_key], record[answer_key]
    if isinstance(asked, list) and isinstance(answer, list):
        return _conversation(_turns([*asked, *answer], role_key="role", content_key="content"))
    turns = [Message("user", _text(asked, asked_key)), Message("assistant", _text(answer, answer_key))]
    if record.get("system"):
        turns.insert(0, Message("system", _text(record["system"], "system")))
    return _conversation(turns)


def _plain(record: Record) -> Conversation:
    text = _text(record["text"], "text")
    if not text.strip():
        raise BadRowError("the text is empty")
    return Conversation(text=text)


def _turns(raw: Any, *, role_key: str, content_key: str) -> Iterable[Message]:
    if not isinstance(raw, list):
        raise BadRowError(f"expected a list of messages, found {_kind(raw)}")
    for turn in raw:
        if not isinstance(turn, dict) or role_key not in turn:
            raise BadRowError(f"expected messages with '{role_key}' and '{content_key}', found {_kind(turn)}")
        role = _ROLES.get(str(turn[role_key]).lower())
        if role is None:
            raise BadRowError(f"unknown role '{turn[role_key]}'; expected one of {', '.join(_ROLES)}")
        yield Message(role, _content(turn, content_key))


def _content(turn: Record, key: str) -> str:
    if turn.get("tool_calls"):
        return "\n".join(_call(item.get("function", item)) for item in turn["tool_calls"])
    content = turn.get(key)
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) != len(content):
            raise BadRowError("a message has parts that are not text; expected text only")
        content = "".join(str(part) for part in parts)
    return _text(content, key)


def _call(function: Record) -> str:
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise BadRowError("a tool call's arguments are not valid JSON") from error
    return json.dumps({"name": function.get("name"), "arguments": arguments}, ensure_ascii=False)


def _conversation(turns: Iterable[Message]) -> Conversation:
    messages = tuple(turns)
    if not any(message.role == "assistant" for message in messages):
        roles = ", ".join(dict.fromkeys(message.role for message in messages)) or "no"
        raise BadRowError(f"nothing to learn: only {roles} messages; expected an assistant answer")
    if messages[-1].role != "assistant":
        raise BadRowError(f"the conversation ends with a {messages[-1].role} message; expected an assistant answer")
    if any(message.role == "assistant" and not message.content.strip() for message in messages):
        raise BadRowError("an assistant answer is empty")
    return Conversation(messages)


def _text(value: Any, key: str) -> str:
    if value is None or value != value:
        raise BadRowError(f"'{key}' is missing a value; expected text")
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise BadRowError(f"'{key}' is {_kind(value)}; expected text")
    if "\x00" in value:
        raise BadRowError(f"'{key}' holds a NUL character; expected text")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "null"}
    return kinds.get(type(value), "a number")


SCHEMAS: dict[str, Schema] = {
    "messages": Schema("OpenAI messages", lambda keys: "messages" in keys, _messages),
    "sharegpt": Schema("ShareGPT", lambda keys: "conversations" in keys, _sharegpt),
    "alpaca": Schema("Alpaca", lambda keys: {"instruction", "output"} <= keys, _alpaca),
    "prompt/completion": Schema("prompt/completion", lambda keys: any({*pair} <= keys for pair in _PAIRS), _pair),
    "text": Schema("plain text", lambda keys: "text" in keys, _plain),
}
