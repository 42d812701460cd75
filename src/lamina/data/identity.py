"""What makes two rows the same row: their content, wherever and however it is written down."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from lamina.records import Conversation, Message

__all__ = ["from_record", "prompt_identity", "row_identity", "to_record"]


def row_identity(row: Conversation) -> str:
    """Return 64 hex digits that rows of equal content share.

    Content is compared in Unicode form NFC, with line endings unified and outer white space removed; file, row number
    and container do not count.
    """
    return _digest([_turns(row), _normal(row.text)])


def prompt_identity(row: Conversation) -> str | None:
    """Return 64 hex digits that rows share which agree in everything but their last answer; None without an answer."""
    answers = [place for place, message in enumerate(row.messages) if message.role == "assistant"]
    if not answers:
        return None
    turns = _turns(row)
    return _digest(["prompt", turns[: answers[-1]], turns[answers[-1] + 1 :]])


def to_record(row: Conversation) -> dict[str, Any]:
    """Return the row as a JSON object in the OpenAI messages or text schema."""
    if not row.messages:
        return {"text": row.text}
    return {"messages": [{"role": message.role, "content": message.content} for message in row.messages]}


def from_record(record: Mapping[str, Any]) -> Conversation:
    """Return the row that ``to_record`` wrote."""
    if "text" in record:
        return Conversation(text=record["text"])
    return Conversation(tuple(Message(turn["role"], turn["content"]) for turn in record["messages"]))


def _turns(row: Conversation) -> list[list[str]]:
    return [[message.role, _normal(message.content)] for message in row.messages]


def _digest(content: list[Any]) -> str:
    spelled = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(spelled.encode("utf-8", "surrogatepass")).hexdigest()


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").strip()
