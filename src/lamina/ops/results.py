"""Scores as they are remembered: one file per stack and suite, under the digests of both."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from lamina.records import Score
from lamina.refs import Digest
from lamina.stack.layers import stack_digest
from lamina.stack.manifest import StackConfig
from lamina.stack.store import Store, write_atomically

__all__ = ["effect", "judge_folder", "read_score", "write_score"]


def read_score(store: Store, stack: StackConfig, suite_digest: str) -> Score | None:
    """Return what ``stack`` scored on a suite, if it has been measured."""
    return _read(_folder(store, stack_digest(stack)) / f"{Digest.parse(suite_digest).hex}.json")


def write_score(store: Store, stack: StackConfig, suite_digest: str, score: Score) -> None:
    """Remember a score."""
    folder = _folder(store, stack_digest(stack))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{Digest.parse(suite_digest).hex}.json", json.dumps(dataclasses.asdict(score)).encode())


def effect(
    store: Store, below: str, stack: str, known: dict[Path, Score | None] | None = None
) -> dict[str, tuple[Score, Score]]:
    """Return the scores of the stacks ``below`` and ``stack`` (digests), by suite, where both were measured.

    Of a suite that has changed meanwhile, the version measured last counts. ``known`` keeps what has been read, so that
    of many stacks on one another each file is read once.
    """
    kept = {} if known is None else known

    def read(path: Path) -> Score | None:
        if path not in kept:
            kept[path] = _read(path)
        return kept[path]

    without = _folder(store, below)
    measured = sorted(_folder(store, stack).glob("*.json"), key=lambda path: path.stat().st_mtime)
    pairs = ((read(without / path.name), read(path)) for path in measured)
    return {after.suite: (before, after) for before, after in pairs if before is not None and after is not None}


def judge_folder(store: Store) -> Path:
    """Return where a judge's replies, and what they come to, are kept."""
    return store.root / "results" / "judge"


def _folder(store: Store, digest: str) -> Path:
    return store.root / "results" / Digest.parse(digest).hex


def _read(path: Path) -> Score | None:
    if not path.exists():
        return None
    stored: dict[str, Any] = json.loads(path.read_text("utf-8"))
    # Fields that came later are missing in older files; JSON has no tuples.
    kept: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Score(**kept)
