"""From files to rendered rows, with everything a person should know said before the first step (law 3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamina.config import Recipe
from lamina.data.cache import cached_rows
from lamina.data.identity import from_record, row_identity, to_record
from lamina.data.read import DataFile, read_rows
from lamina.data.render import Renderer
from lamina.data.split import drop_duplicates, split_heldout
from lamina.errors import DataError
from lamina.ops.project import Project
from lamina.records import Conversation, TokenRow
from lamina.stack.layers import read_layer
from lamina.stack.manifest import LayerConfig, StackConfig
from lamina.stack.store import Store

__all__ = [
    "TrainingData",
    "heldout_sample",
    "identities",
    "known_rows",
    "prepare_rows",
    "read_files",
    "render_rows",
    "rows_as_jsonl",
    "spread",
    "stored_rows",
]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a layer is trained and measured on."""

    files: tuple[DataFile, ...]
    train: tuple[Conversation, ...]
    heldout: tuple[Conversation, ...]
    train_tokens: tuple[TokenRow, ...]
    heldout_tokens: tuple[TokenRow, ...]


def read_files(project: Project, paths: Sequence[Path]) -> tuple[tuple[DataFile, ...], list[Conversation]]:
    """Return the files and their distinct rows, and say what was found.

    Raises:
        DataError: for the first file or row that cannot be used.
    """
    files = tuple(read_rows(path) for path in paths)
    for file in files:
        project.progress.note(file.describe())
    rows, dropped = drop_duplicates([row for file in files for row in file.rows])
    if dropped:
        project.progress.note(f"{dropped} duplicate rows left out")
    return files, list(rows)


def prepare_rows(
    project: Project, files: tuple[DataFile, ...], rows: Sequence[Conversation], recipe: Recipe
) -> TrainingData:
    """Split off held-out rows and render both sides.

    Raises:
        DataError: if truncation would lose more than ``recipe.max_lost`` of the trained tokens.
    """
    train, heldout = split_heldout(rows, recipe.heldout, recipe.seed)
    longest = min(recipe.max_length or project.loaded.context, project.loaded.context)
    train_tokens = render_rows(project, train, longest)
    heldout_tokens = render_rows(project, heldout, longest)
    _report_lost(project, [*train_tokens, *heldout_tokens], longest, recipe.max_lost)
    return TrainingData(files, tuple(train), tuple(heldout), tuple(train_tokens), tuple(heldout_tokens))


def render_rows(project: Project, rows: Sequence[Conversation], longest: int) -> list[TokenRow]:
    """Return the rows rendered for this base, from the token cache where they have been rendered before."""
    renderer = Renderer(project.loaded.tokenizer, project.loaded.template)
    pin = project.base.pin
    key = (pin.tokenizer_digest, pin.template_digest, str(longest))
    return cached_rows(
        project.store.root / "cache", key, rows, lambda: [renderer.row(row, max_length=longest) for row in rows]
    )


def known_rows(project: Project, stack: StackConfig) -> set[str]:
    """Return the identities of all rows that the stack's layers were trained or measured on."""
    known: set[str] = set()
    for entry in stack.layers:
        layer = read_layer(project.store, entry.layer)
        known |= set(project.store.read_bytes(layer.rows).decode().split())
    return known


def stored_rows(store: Store, digest: str | None) -> list[Conversation]:
    """Return the rows of a replay or held-out blob; none if there is none, or if its owner kept it at home."""
    if digest is None or not store.has(digest):
        return []
    return [from_record(json.loads(line)) for line in store.read_bytes(digest).splitlines()]


def heldout_sample(project: Project, layers: Sequence[LayerConfig], most: int) -> list[Conversation]:
    """Return up to ``most`` held-out rows of each layer, spread evenly over them."""
    return [row for layer in layers for row in spread(stored_rows(project.store, layer.heldout), most)]


def spread(rows: Sequence[Conversation], most: int) -> list[Conversation]:
    """Return up to ``most`` of the rows, evenly spread."""
    count = min(most, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def rows_as_jsonl(rows: Sequence[Conversation]) -> bytes:
    """Return the rows as JSON lines, in a form that ``lamina train`` reads."""
    return "".join(json.dumps(to_record(row), ensure_ascii=False) + "\n" for row in rows).encode()


def identities(rows: Sequence[Conversation]) -> list[str]:
    """Return the rows' identities, sorted."""
    return sorted(row_identity(row) for row in rows)


def _report_lost(project: Project, rows: Sequence[TokenRow], longest: int, limit: float) -> None:
    cut = [row for row in rows if row.lost]
    lost = sum(row.lost for row in cut)
    total = lost + sum(row.trained_count for row in rows)
    if not cut:
        return
    share = lost / total
    text = (
        f"{len(cut)} rows are longer than {longest} tokens; {lost} of {total} trained tokens ({share:.1%}) would be cut"
    )
    if share > limit:
        raise DataError(
            cut[0].file,
            f"{text}, more than the {limit:.0%} allowed",
            row=cut[0].row,
            hint="shorten the rows, raise --max-length, or allow it with train.max_lost in lamina.toml",
        )
    project.progress.note(text)
