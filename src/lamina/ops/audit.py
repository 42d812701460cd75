"""A data file looked through before anything is trained on it, without loading the base's weights."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig

from lamina.data.identity import row_identity
from lamina.data.read import read_rows
from lamina.data.render import Renderer
from lamina.data.split import drop_duplicates, split_heldout
from lamina.model.base import load_tokenizer
from lamina.ops.project import Project
from lamina.ops.rows import known_rows, spread
from lamina.records import TokenRow
from lamina.serve.page.workshop import Audit, Piece
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig
from lamina.stack.order import skill_of

__all__ = ["audit_file"]

_SAMPLE = 200
_UNCUT = 1 << 20  # tokens; how long rows are is what the audit tells


def audit_file(project: Project, path: Path, shown: str) -> Audit:
    """Return what is in a file and what ``lamina`` would do with it; ``shown`` is its name for people.

    Raises:
        DataError: naming the first row that cannot be used.
    """
    found = read_rows(path)
    rows, duplicates = drop_duplicates(found.rows)
    stack = project.stack()
    known = known_rows(project, stack)
    new = [row for row in rows if row_identity(row) not in known]
    recipe = project.settings.train
    _, heldout = split_heldout(new, recipe.heldout, recipe.seed)
    tokenizer = load_tokenizer(project.base)
    renderer = Renderer(tokenizer, project.base.template)
    rendered = [renderer.row(row, max_length=_UNCUT) for row in [rows[0], *spread(rows, _SAMPLE)]]
    how, name = _suggest(project, stack, path)
    return Audit(
        file=shown,
        description=found.describe(),
        rows=len(rows),
        duplicates=duplicates,
        known=len(rows) - len(new),
        heldout=len(heldout),
        longest=max(len(row.ids) for row in rendered),
        context=_context(project),
        example=_pieces(tokenizer, rendered[0]),
        how=how,
        name=name,
    )


def _suggest(project: Project, stack: StackConfig, path: Path) -> tuple[Literal["train", "update"], str]:
    """Return whether a file of this name continues a skill of the stack or starts one, and a name for it."""
    for entry in reversed(stack.layers):
        if path.name in {source.file for source in read_layer(project.store, entry.layer).data}:
            return "update", skill_of(stack, entry.name)
    letters = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._0123456789")
    return "train", letters[:64] or "skill"


def _context(project: Project) -> int:
    config = AutoConfig.from_pretrained(project.base.folder).get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 2048)


def _pieces(tokenizer: Any, row: TokenRow) -> tuple[Piece, ...]:
    pairs = groupby(zip(row.ids, row.trained, strict=True), key=lambda pair: pair[1])
    return tuple(Piece(tokenizer.decode([token for token, _ in group]), trained) for trained, group in pairs)
