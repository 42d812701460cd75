"""Tools: written into the prompt, found again in the answer, and forced by a schema when one must be called.

A base whose chat template knows tools renders them itself. For others they go into the system message, one signature a
line, as in the demo's tools skill; the call is a JSON object ``{"name": ..., "arguments": {...}}``.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lamina.data.render import Renderer
from lamina.records import Message
from lamina.serve.wire import RequestMessage, Tool

__all__ = ["Call", "calls_schema", "find_calls", "may_be_call", "render_messages"]

_MARK = "<tool_call>"
_ARGUMENTS = "/properties/arguments"
_MARKED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the model calls, its arguments as JSON text."""

    name: str
    arguments: str

    def to_wire(self, index: int | None = None) -> dict[str, Any]:
        """Return the call as clients read it; in a stream it has its ``index``."""
        place = {} if index is None else {"index": index}
        function = {"name": self.name, "arguments": self.arguments}
        return place | {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def render_messages(renderer: Renderer, messages: Sequence[RequestMessage], tools: Sequence[Tool]) -> list[int]:
    """Return the ids after which the model answers ``messages``.

    Raises:
        StackError, DataError: if the chat template refuses them.
    """
    plain = [_message(message) for message in messages]
    if not tools:
        return renderer.prompt(plain)
    if renderer.takes_tools:
        return renderer.with_tools([tool.model_dump(exclude_none=True) for tool in tools]).prompt(plain)
    signatures = "\n".join(map(_signature, tools))
    if plain[0].role == "system":
        return renderer.prompt([Message("system", f"{plain[0].content}\n\n{signatures}"), *plain[1:]])
    return renderer.prompt([Message("system", signatures), *plain])


def calls_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """Return the JSON Schema of one call of one of ``tools``."""
    kinds = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "arguments": _moved(tool.function.parameters or {"type": "object"}, f"#/anyOf/{place}{_ARGUMENTS}"),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for place, tool in enumerate(tools)
    ]
    return {"anyOf": kinds}


def may_be_call(text: str) -> bool:
    """Return whether an answer that begins with ``text`` may turn out to be a call, and must not be shown yet."""
    start = text.lstrip()
    return start[:1] in ("", "{", "[") or start.startswith(_MARK) or _MARK.startswith(start)


def find_calls(text: str, tools: Sequence[Tool]) -> list[Call]:
    """Return the calls that ``text`` consists of; none if it is anything else, or calls what is not in ``tools``.

    Calls may come one after another, in a list, or between ``<tool_call>`` marks; ``parameters`` is taken for
    ``arguments``, as some families write it.
    """
    names = {tool.function.name for tool in tools}
    values: list[Any] = []
    for part in _MARKED.findall(text) if text.lstrip().startswith(_MARK) else [text]:
        values += _values(part)
    calls = [_call(value, names) for value in values]
    return [call for call in calls if call is not None] if all(calls) else []


def _moved(schema: Any, place: str) -> Any:
    """Return a schema that stands at ``place`` of another one: its references begin at their own root."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: place + value[1:] if key == "$ref" and str(value).startswith("#") else _moved(value, place)
        for key, value in schema.items()
    }


def _values(text: str) -> list[Any]:
    """Return the JSON values that ``text`` is a row of, the items of lists one by one; none if there is more to it."""
    found: list[Any] = []
    place, decoder = 0, json.JSONDecoder()
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return []
        found += value if isinstance(value, list) else [value]
    return found


def _call(value: Any, names: set[str]) -> Call | None:
    if not isinstance(value, dict) or value.get("name") not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        return Call(value["name"], arguments)
    return Call(value["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def _message(message: RequestMessage) -> Message:
    text = message.text
    if message.tool_calls:
        calls = [_spelled(call.function.name, call.function.arguments) for call in message.tool_calls]
        text = "\n".join([*([text] if text else []), *calls])
    match message.role:
        case "developer" | "system":
            return Message("system", text)
        case "function" | "tool":
            return Message("tool", text)
        case "user" | "assistant":
            return Message(message.role, text)


def _spelled(name: str, arguments: str) -> str:
    """Return a call as the data that layers are trained on spells it."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = arguments
    return json.dumps({"name": name, "arguments": parsed}, ensure_ascii=False)


def _signature(tool: Tool) -> str:
    properties = (tool.function.parameters or {}).get("properties", {})
    line = f"{tool.function.name}({', '.join(map(str, properties))})"
    return f"{line}: {tool.function.description}" if tool.function.description else line
