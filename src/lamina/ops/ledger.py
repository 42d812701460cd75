"""The ledger: what every step of every command took, one JSON line each in ``.lamina/ledger.jsonl``, only appended.

Read without a model. A last line that a crash cut short is left out, and overwritten by the next entry.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lamina.errors import StackError
from lamina.stack.store import Store, disk_errors

__all__ = ["LEDGER", "STEPS", "Entry", "append", "read_ledger", "total"]

LEDGER = "ledger.jsonl"
STEPS = ("train", "gate", "remedy", "score", "weigh", "generate", "squash", "realign", "forget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one step took.

    Attributes:
        step: one of ``STEPS``: making the layer, asking the gate, mending a refused one, measuring, weighing layers
            against one another, answers for a judge, measuring a squash, carrying over, training again without rows.
        layer: the name of the layer it was for; empty for the bare base.
        when: its end, ISO, UTC.
        tokens: computed, forward or both ways; what rows share counts once.
        trained: those of them that went backward too.
        flops: floating-point operations, by the formula of ``lamina.ops.costs``.
        seconds: wall time.
        watt_hours, money: estimates from the seconds and ``[cost]`` of the settings at that time.
    """

    step: str
    layer: str = ""
    when: str = ""
    tokens: int = 0
    trained: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    watt_hours: float = 0.0
    money: float = 0.0


def append(store: Store, entry: Entry) -> None:
    """Add an entry, in place of a last line that a crash cut short.

    Raises:
        MachineError: if the disk is full or read-only.
        StackError: if another process holds the ledger for more than ten seconds.
    """
    path = store.root / LEDGER
    with store.lock("ledger.lock"), disk_errors(path), path.open("ab+") as file:
        file.truncate(_whole(path))
        file.write(json.dumps(dataclasses.asdict(entry)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_ledger(store: Store) -> list[Entry]:
    """Return every entry, oldest first.

    Raises:
        StackError: if a line is damaged that is not the last.
    """
    path = store.root / LEDGER
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_bytes()[: _whole(path)].splitlines(), start=1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise StackError(f"{path}: line {number} is damaged", hint="delete that line") from error
    return entries


def total(entries: Iterable[Entry], step: str = "", layer: str = "") -> Entry:
    """Return the sum of entries, under a step's and a layer's name."""
    every = list(entries)
    return Entry(
        step=step,
        layer=layer,
        when=max((entry.when for entry in every), default=""),
        tokens=sum(entry.tokens for entry in every),
        trained=sum(entry.trained for entry in every),
        flops=math.fsum(entry.flops for entry in every),
        seconds=math.fsum(entry.seconds for entry in every),
        watt_hours=math.fsum(entry.watt_hours for entry in every),
        money=math.fsum(entry.money for entry in every),
    )


def _whole(path: Path) -> int:
    """Return how many bytes of the file are whole lines."""
    return path.read_bytes().rfind(b"\n") + 1
