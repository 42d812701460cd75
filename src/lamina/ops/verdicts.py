"""The gate's verdicts as they are remembered: one file per layer, so that nothing is judged twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lamina.evaluate.gate import SuiteVerdict, Verdict
from lamina.refs import Digest
from lamina.stack.layers import list_layers, read_stack
from lamina.stack.lineage import list_refs
from lamina.stack.manifest import LayerConfig
from lamina.stack.store import Store, disk_errors, write_atomically

__all__ = ["Judgement", "find_verdict", "list_judgements", "question_key", "read_candidates", "remember"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One verdict on a layer.

    Attributes:
        key: what was asked: the two stacks, the suites by content, margins and level.
        when: ISO, UTC.
        branch: where it wanted to go.
        scale: its weight there.
        remedy: what had been done to it before, empty for the layer as it was made.
        verdict: what the gate said.
    """

    key: str
    when: str
    branch: str
    scale: float
    remedy: str
    verdict: Verdict


def question_key(stacks: Sequence[str], suites: Sequence[str], margins: Sequence[float | None], how: object) -> str:
    """Return the digest of all that a verdict follows from."""
    return str(Digest.of_bytes(json.dumps([list(stacks), list(suites), list(margins), how]).encode()))


def find_verdict(store: Store, layer: str, key: str) -> Verdict | None:
    """Return what the gate said when it was asked the same before."""
    return next((each.verdict for each in list_judgements(store, layer) if each.key == key), None)


def list_judgements(store: Store, layer: str) -> list[Judgement]:
    """Return every verdict on a layer, oldest first; none where the records were deleted, which is allowed."""
    path = _path(store, layer)
    if not path.exists():
        return []
    return [_revive(record) for record in json.loads(path.read_text("utf-8"))]


def remember(store: Store, layer: str, key: str, verdict: Verdict, *, branch: str, scale: float, remedy: str) -> None:
    """Keep a verdict.

    Raises:
        MachineError: if the disk is full or read-only.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    judgement = Judgement(key=key, when=when, branch=branch, scale=scale, remedy=remedy, verdict=verdict)
    kept = [*list_judgements(store, layer), judgement]
    path = _path(store, layer)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps([dataclasses.asdict(each) for each in kept]).encode())


def read_candidates(start: Path) -> list[tuple[str, LayerConfig, list[Judgement]]]:
    """Return the layers that no ref's stack holds, newest first: digest, record, and what the gate said of them.

    Raises:
        StackError: if there is no project.
    """
    store = Store.find(start)
    stacks = [read_stack(store, digest) for digest in set(list_refs(store).values())]
    used = {entry.layer for stack in stacks for entry in stack.layers}
    found = [(digest, layer) for digest, layer in list_layers(store) if digest not in used]
    return [(digest, layer, list_judgements(store, digest)) for digest, layer in reversed(found)]


def _path(store: Store, layer: str) -> Path:
    return store.root / "results" / "verdicts" / f"{Digest.parse(layer).hex}.json"


def _revive(record: dict[str, Any]) -> Judgement:
    stored = record["verdict"]
    kept: list[dict[str, Any]] = [
        {name: tuple(value) if isinstance(value, list) else value for name, value in each.items()}
        for each in stored["suites"]
    ]
    suites = tuple(SuiteVerdict(**each) for each in kept)
    verdict = Verdict(stored["accepted"], suites, tuple(stored["skipped"]), stored["level"])
    return Judgement(**record | {"verdict": verdict})
