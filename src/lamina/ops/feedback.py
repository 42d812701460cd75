"""What people say about answers, kept as data: votes for preference training, corrections that ``update`` trains on.

Both are JSON lines beside ``lamina.toml``, written whole or not at all, by ``lamina chat`` and the page alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from lamina.data.identity import row_identity, to_record
from lamina.errors import DataError
from lamina.records import Conversation, Message
from lamina.stack.store import Store, disk_errors, write_atomically

__all__ = ["CORRECTIONS", "VOTES", "Answered", "Winner", "save_correction", "save_vote"]

VOTES = "votes.jsonl"
CORRECTIONS = "corrections.jsonl"
Winner = Literal["model_a", "model_b", "tie"]

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer and whose it is: the stack as it was typed, and its digest, since names move."""

    model: str
    digest: str
    text: str


def save_vote(store: Store, prompt: Sequence[Message], a: Answered, b: Answered, winner: Winner) -> bool:
    """Add a vote to ``votes.jsonl`` and return whether it was new.

    ``prompt``, ``chosen`` and ``rejected`` are message lists, as in TRL's preference data; ``model_a``, ``model_b``
    and ``winner`` are FastChat's. Of a tie nothing was chosen: both are null, and both answers stand in ``answer_a``
    and ``answer_b`` all the same.

    Raises:
        DataError: if there is no question, or an answer is empty.
        MachineError: if the disk is full or read-only.
    """
    _check_question(prompt)
    for answer in (a, b):
        if not answer.text.strip():
            raise DataError("vote", f"the answer of '{answer.model}' is empty", hint="compare again, then vote")
    chosen, rejected = {"model_a": (a, b), "model_b": (b, a), "tie": (None, None)}[winner]
    record: Record = {
        "prompt": _as_dicts(prompt),
        "chosen": chosen and _as_dicts([Message("assistant", chosen.text)]),
        "rejected": rejected and _as_dicts([Message("assistant", rejected.text)]),
        "winner": winner,
        "model_a": a.model,
        "model_b": b.model,
        "stack_a": a.digest,
        "stack_b": b.digest,
        "answer_a": a.text,
        "answer_b": b.text,
    }
    return _add(store, VOTES, record, replaces=lambda other: False)


def save_correction(store: Store, prompt: Sequence[Message], wanted: str, said: Answered) -> bool:
    """Add the answer that was wanted to ``corrections.jsonl``, in messages format, and return whether it was new.

    A second correction of the same question takes the place of the first: a file that teaches both would teach neither.
    Rows that somebody wrote into the file by hand stay.

    Raises:
        DataError: if there is no question, or nothing is wanted.
        MachineError: if the disk is full or read-only.
    """
    _check_question(prompt)
    if not wanted.strip():
        raise DataError("correction", "is empty; expected the answer that was wanted", hint="type the right answer")
    row = Conversation((*prompt, Message("assistant", wanted.strip())))
    record = to_record(row) | {"model": said.model, "stack": said.digest, "said": said.text}
    identity, asked = row_identity(row), record["messages"][:-1]

    def is_earlier(other: Record) -> bool:
        return "said" in other and other["messages"][:-1] == asked and row_identity(_row_of(other)) != identity

    return _add(store, CORRECTIONS, record, replaces=is_earlier)


def _add(store: Store, name: str, record: Record, *, replaces: Callable[[Record], bool]) -> bool:
    path = store.project / name
    with store.lock("feedback.lock"), disk_errors(path):
        # Not splitlines(): it would also split at U+2028 and its kin, which JSON strings may hold.
        text = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
        lines = [line for line in text.split("\n") if line.strip()]
        known = [_parse(line) for line in lines]
        if any(other is not None and _same(other, record) for other in known):
            return False
        kept = [line for line, other in zip(lines, known, strict=True) if other is None or not replaces(other)]
        stamped = record | {"when": datetime.now(UTC).isoformat(timespec="seconds")}
        whole = "\n".join([*kept, json.dumps(stamped, ensure_ascii=False), ""])
        write_atomically(path, whole.encode("utf-8", "surrogateescape"))
    return True


def _parse(line: str) -> Record | None:
    """Return the record on a line; None for anything that is not ours to judge, which stays as it is."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    fits = isinstance(value, dict) and isinstance(value.get("messages", []), list)
    return value if fits else None


def _same(one: Record, other: Record) -> bool:
    """Return whether two records say the same: for training, a row is its messages, whoever gave the wrong answer."""
    if "messages" in one and "messages" in other:
        return row_identity(_row_of(one)) == row_identity(_row_of(other))
    return {**one, "when": None} == {**other, "when": None}


def _row_of(record: Record) -> Conversation:
    turns = [turn for turn in record["messages"] if isinstance(turn, dict)]
    return Conversation(tuple(Message(turn.get("role", "user"), str(turn.get("content"))) for turn in turns))


def _check_question(prompt: Sequence[Message]) -> None:
    if not prompt or prompt[-1].role not in ("user", "tool"):
        raise DataError("feedback", "the messages do not end with a question", hint="ask something first")


def _as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
