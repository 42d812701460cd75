"""Replay: what earlier layers taught, and what the base could before them, mixed into the training of a new layer.

    earlier layers   rows of each layer's sample, an equal share of the tokens for each
    lost layers      where a layer's rows are not on this machine, what the stack itself writes stands in for them
    anchors          what the bare base writes: skills that no layer's rows hold

Rows that a model wrote carry no truth of their own: all that is trained on them is to go on predicting what the parent
does. Of real rows ``recipe.kl`` says how much. docs/design/stacking.md has the figures behind the shares.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from lamina.config import Recipe
from lamina.data.identity import from_record, row_identity
from lamina.data.render import Renderer
from lamina.infer.generate import sampled_answers
from lamina.ops.project import Project
from lamina.ops.rows import TrainingData, rehearsable_rows, render_rows, rows_as_jsonl, spread, superseded
from lamina.records import Conversation, Message, TokenRow
from lamina.refs import Digest
from lamina.stack.layers import read_layer, stack_digest
from lamina.stack.manifest import Cost, StackConfig
from lamina.stack.store import write_atomically

__all__ = ["Replay", "render_replay", "replay_rows"]

_AT_ONCE = 16
_LONGEST_QUESTION = 48
_LONGEST_ANSWER = 64


@dataclass(frozen=True, slots=True)
class Replay:
    """What is mixed in.

    Attributes:
        rows: rendered.
        lost: names of the layers for whose rows the stack's own writing stands in.
        cost: of what a model had to write first; nothing where it had been written before.
    """

    rows: tuple[TokenRow, ...] = ()
    lost: tuple[str, ...] = ()
    cost: Cost = field(default_factory=partial(Cost.total, ()))


def replay_rows(
    project: Project, stack: StackConfig, count: int, newer: Sequence[Conversation] = ()
) -> list[Conversation]:
    """Return ``count`` rows of earlier layers, an equal share of each, spread evenly over its sample.

    Rows whose prompt ``newer``, or a later layer, answers otherwise are left out.
    """
    samples = [sample for _, sample in _samples(project, stack, newer) if sample]
    chosen: list[Conversation] = []
    for index, sample in enumerate(samples):
        chosen += spread(sample, count // len(samples) + (index < count % len(samples)))
    return chosen


def render_replay(
    project: Project, stack: StackConfig, data: TrainingData, recipe: Recipe, lost: Sequence[str] | None = None
) -> Replay:
    """Return what is mixed into training on ``data`` on top of ``stack``.

    Args:
        project: the open project.
        stack: the parent.
        data: the new rows.
        recipe: how much.
        lost: layers to take for lost, as an earlier run had to; None means those whose rows are not here.
    """
    newer = (*data.train, *data.heldout)
    if recipe.replay_by == "rows":
        chosen = replay_rows(project, stack, round(recipe.replay * len(data.train)), newer)
        return Replay(_taught(render_rows(project, chosen, project.loaded.context), recipe.kl))
    new = sum(len(row.ids) for row in data.train_tokens)
    samples = _samples(project, stack, newer) if recipe.replay else []
    gone = tuple(name for name, sample in samples if sample is None) if lost is None else tuple(lost)
    share = recipe.replay * new / max(1, len(samples))
    rows: list[TokenRow] = []
    for name, sample in samples:
        if sample and name not in gone:
            rows += _taught(_fill(render_rows(project, sample, project.loaded.context), share), recipe.kl)
    stood_in, first = _written(project, stack, share * len(gone), recipe.seed)
    if gone:
        project.progress.note(f"No rows of {', '.join(gone)} are here: {len(stood_in)} that the stack writes stand in")
    bare = stack.model_copy(update={"layers": ()})
    anchors, second = _written(project, bare, recipe.anchors * new, recipe.seed)
    return Replay((*rows, *stood_in, *anchors), gone, Cost.total([first, second]))


def _samples(
    project: Project, stack: StackConfig, newer: Sequence[Conversation]
) -> list[tuple[str, list[Conversation] | None]]:
    """Return each layer's name and its sample of rows; None if it is not on this machine.

    Superseded rows are left out, forgotten ones too, and so are layers of whose sample nothing is left then.
    """
    replaced = superseded(project, stack, newer)
    found: list[tuple[str, list[Conversation] | None]] = []
    for entry in stack.layers:
        digest = read_layer(project.store, entry.layer).replay
        is_here = digest is not None and project.store.has(digest)
        kept = [row for row in rehearsable_rows(project.store, digest) if row_identity(row) not in replaced]
        if kept or not is_here:
            found.append((entry.name, kept if is_here else None))
    return found


def _fill(rows: Sequence[TokenRow], tokens: float) -> list[TokenRow]:
    """Return as many of the rows, evenly spread, as come to ``tokens``; one at least if any are asked for."""
    if not rows or tokens <= 0:
        return []
    count = min(len(rows), max(1, round(tokens * len(rows) / sum(len(row.ids) for row in rows))))
    return [rows[place * len(rows) // count] for place in range(count)]


def _taught(rows: Sequence[TokenRow], share: float) -> tuple[TokenRow, ...]:
    return tuple(replace(row, taught=share) for row in rows)


def _written(project: Project, stack: StackConfig, tokens: float, seed: int) -> tuple[tuple[TokenRow, ...], Cost]:
    """Return rows that ``stack`` writes, of about so many tokens, and what writing them took.

    It writes both sides of a conversation, from where its chat template lets a user speak: such rows are of the kind
    that the model was last tuned on. Rounds of rows are kept in the store's cache.

    Source: self-synthesised rehearsal, Huang et al. 2024, arXiv:2403.01244; prompts from the bare template, Xu et al.
    2024 (Magpie), arXiv:2406.08464.
    """
    rows: list[TokenRow] = []
    costs: list[Cost] = []
    number = 0
    while sum(len(row.ids) for row in rows) < tokens:
        written, cost = _round(project, stack, seed, number)
        rows += render_rows(project, written, project.loaded.context)
        costs.append(cost)
        number += 1
    kept = _fill(rows, tokens)
    return _taught(kept, 1.0), Cost.total(costs)


def _round(project: Project, stack: StackConfig, seed: int, number: int) -> tuple[list[Conversation], Cost]:
    key = [stack_digest(stack), seed, number, _AT_ONCE, _LONGEST_QUESTION, _LONGEST_ANSWER]
    path = project.store.root / "cache" / f"written-{Digest.of_bytes(json.dumps(key).encode()).hex}.jsonl"
    if path.exists():
        return [from_record(json.loads(line)) for line in path.read_text("utf-8").splitlines()], Cost.total(())
    started = time.perf_counter()
    base = project.activate(stack, force=True)
    renderer = Renderer(base.tokenizer, base.template)
    draw = seed * 1_000_003 + 2 * number
    with project.progress.stage("rows of its own", total=_AT_ONCE, unit="rows") as tick:
        opening = renderer.opening()
        asked = sampled_answers(base, [opening] * _AT_ONCE, max_tokens=_LONGEST_QUESTION, seed=draw)
        asks = [Message("user", renderer.text(ids).strip() or "Hello") for ids in asked]
        prompts = [renderer.prompt([ask]) for ask in asks]
        said = sampled_answers(base, prompts, max_tokens=_LONGEST_ANSWER, seed=draw + 1)
        tick(_AT_ONCE)
    rows = [
        Conversation((ask, Message("assistant", renderer.text(ids).strip() or "Hello")))
        for ask, ids in zip(asks, said, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, rows_as_jsonl(rows))
    tokens = sum(map(len, [*prompts, *asked, *said]))
    return rows, Cost(tokens=tokens, trained_tokens=0, seconds=time.perf_counter() - started, steps=0)
