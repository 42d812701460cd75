"""From files to rendered rows, with everything a person should know said before the first step (law 3)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamina.config import Recipe
from lamina.data.cache import cached_rows
from lamina.data.changes import Seen, superseded_rows
from lamina.data.identity import from_record, prompt_identity, row_identity, to_record
from lamina.data.read import DataFile, read_rows
from lamina.data.render import Renderer
from lamina.data.split import drop_duplicates, split_heldout
from lamina.errors import DataError
from lamina.ops.project import Project
from lamina.records import Conversation, TokenRow
from lamina.stack.layers import read_layer
from lamina.stack.manifest import LayerConfig, StackConfig
from lamina.stack.order import skill_of
from lamina.stack.seen import SeenRow, format_seen, read_seen
from lamina.stack.store import Store, disk_errors, write_atomically

__all__ = [
    "TrainingData",
    "forbid_rows",
    "forgotten_rows",
    "heldout_sample",
    "identities",
    "known_rows",
    "list_rows",
    "prepare_rows",
    "read_files",
    "recorded_sides",
    "rehearsable_rows",
    "render_rows",
    "rows_as_jsonl",
    "seen_rows",
    "spread",
    "stored_rows",
    "superseded",
]

_FORGOTTEN = "forgotten"


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
    forgotten = forgotten_rows(project.store)
    kept = [row for row in rows if row_identity(row) not in forgotten] if forgotten else rows
    if len(kept) < len(rows):
        project.progress.note(f"{len(rows) - len(kept)} rows left out, which `lamina forget` took away")
    return files, kept


def forgotten_rows(store: Store) -> set[str]:
    """Return the identities of rows that no layer may be trained on any more."""
    path = store.root / _FORGOTTEN
    return set(path.read_text("utf-8").split()) if path.exists() else set()


def rehearsable_rows(store: Store, sample: str | None) -> list[Conversation]:
    """Return the rows of a layer's sample that a layer may still be trained on."""
    forgotten = forgotten_rows(store)
    return [row for row in stored_rows(store, sample) if row_identity(row) not in forgotten]


def forbid_rows(store: Store, rows: Collection[str]) -> None:
    """Note the identities of rows that no layer may be trained on any more.

    Raises:
        MachineError: if the disk is full or read-only.
    """
    path = store.root / _FORGOTTEN
    with store.lock(), disk_errors(path):
        write_atomically(path, "".join(f"{row}\n" for row in sorted({*forgotten_rows(store), *rows})).encode())


def prepare_rows(
    project: Project,
    files: tuple[DataFile, ...],
    rows: Sequence[Conversation],
    recipe: Recipe,
    *,
    sides: Mapping[str, bool] | None = None,
) -> TrainingData:
    """Split off held-out rows and render both sides.

    Args:
        project: the open project.
        files: where the rows come from.
        rows: the rows, each once.
        recipe: says which share is held out, and how long a row may be.
        sides: by identity, whether a row is held out; rows that are not in it are split by content and seed.

    Raises:
        DataError: if truncation would lose more than ``recipe.max_lost`` of the trained tokens.
    """
    fixed = sides or {}
    _, chosen = split_heldout([row for row in rows if row_identity(row) not in fixed], recipe.heldout, recipe.seed)
    out = {row_identity(row) for row in chosen} | {row for row, heldout in fixed.items() if heldout}
    train = [row for row in rows if row_identity(row) not in out]
    heldout = [row for row in rows if row_identity(row) in out]
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
        known |= {seen.row for seen in read_seen(project.store, read_layer(project.store, entry.layer))}
    return known


def seen_rows(
    project: Project, stack: StackConfig, *, skill: str | None = None, files: Collection[str] = ()
) -> list[Seen]:
    """Return what the stack's layers have seen, bottom first.

    Of layers that do not record prompts, those of the rows that they carry are found from the rows themselves.

    Args:
        project: the open project.
        stack: the stack.
        skill: whose layers are marked as own; None marks all.
        files: names of files; rows from files of other names are marked as such. None given marks none.
    """
    found: list[Seen] = []
    for height, entry in enumerate(stack.layers):
        layer = read_layer(project.store, entry.layer)
        rows = read_seen(project.store, layer)
        prompts = {seen.row: seen.prompt for seen in rows}
        if rows and all(prompt is None for prompt in prompts.values()):
            carried = [*stored_rows(project.store, layer.replay), *stored_rows(project.store, layer.heldout)]
            prompts |= {row_identity(row): prompt_identity(row) for row in carried}
        names = [source.file for source in layer.data]
        found += [
            Seen(
                row=seen.row,
                prompt=prompts[seen.row],
                height=height,
                layer=entry.name,
                is_own=skill is None or skill_of(stack, entry.name) == skill,
                is_from_files=not files or _is_from(seen, names, files),
            )
            for seen in rows
        ]
    return found


def superseded(project: Project, stack: StackConfig, newer: Sequence[Conversation] = ()) -> set[str]:
    """Return the identities of rows that the stack's layers have seen and that a newer answer has replaced.

    They must not be rehearsed, nor measured: the stack has been taught otherwise since.

    Args:
        project: the open project.
        stack: the stack.
        newer: rows that are about to be trained on top of it.
    """
    last = [
        Seen(row=row_identity(row), prompt=prompt_identity(row), height=len(stack.layers), layer="") for row in newer
    ]
    return superseded_rows([*seen_rows(project, stack), *last])


def list_rows(data: TrainingData) -> bytes:
    """Return the list of rows that a layer trained on ``data`` has seen (``lamina.stack.seen``)."""
    places: dict[str, int] = {}
    for place, file in enumerate(data.files):
        for row in file.rows:
            places.setdefault(row_identity(row), place)
    sides = ((data.train, False), (data.heldout, True))
    return format_seen(
        SeenRow(identity, prompt_identity(row), places.get(identity), heldout)
        for rows, heldout in sides
        for row in rows
        for identity in (row_identity(row),)
    )


def recorded_sides(store: Store, layer: LayerConfig) -> dict[str, bool]:
    """Return, by identity, whether a row that ``layer`` has seen was held out, where that is recorded."""
    return {seen.row: seen.heldout for seen in read_seen(store, layer) if seen.heldout is not None}


def stored_rows(store: Store, digest: str | None) -> list[Conversation]:
    """Return the rows of a replay or held-out blob; none if there is none, or if its owner kept it at home."""
    if digest is None or not store.has(digest):
        return []
    return [from_record(json.loads(line)) for line in store.read_bytes(digest).splitlines()]


def _is_from(seen: SeenRow, names: Sequence[str], files: Collection[str]) -> bool:
    """Return whether a row stood in one of ``files``; where that was not recorded, whether it must have."""
    if seen.file is not None and seen.file < len(names):
        return names[seen.file] in files
    return bool(names) and all(name in files for name in names)


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
