"""How a layer's own rows fare on a stack, in nats per byte of text: a unit that bases with other tokenizers share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.data.render import Renderer
from lamina.errors import DataError
from lamina.model.base import LoadedBase
from lamina.ops.rows import stored_rows
from lamina.records import Conversation, TokenRow
from lamina.stack.manifest import Cost, LayerConfig
from lamina.stack.store import Store
from lamina.train.passes import mean_loss

__all__ = ["HELDOUT", "SAMPLE", "Yardstick", "find_yardstick", "keep_fitting", "nats_per_byte", "rendered"]

HELDOUT, SAMPLE = "held-out rows", "sampled rows"


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The rows that tell how good a layer is: those held out; where there never were any, the sample it trained on."""

    kind: str
    rows: tuple[Conversation, ...]

    @property
    def text_bytes(self) -> int:
        """How long the measured text is: the answers, or plain text."""
        return sum(len(text.encode("utf-8", "surrogatepass")) for row in self.rows for text in _texts(row))


def find_yardstick(store: Store, layer: LayerConfig) -> Yardstick | None:
    """Return the rows that are here to measure ``layer`` by, None if there are none.

    A layer whose held-out rows stayed with its owner is not measured by others: what it was trained on flatters it.
    """
    for kind, digest in ((HELDOUT, layer.heldout), (SAMPLE, layer.replay)):
        if digest is not None:
            return Yardstick(kind, tuple(stored_rows(store, digest))) if store.has(digest) else None
    return None


def keep_fitting(base: LoadedBase, yardstick: Yardstick) -> Yardstick:
    """Return the yardstick without rows that this base's context would cut: they cannot be compared."""
    renderer = Renderer(base.tokenizer, base.template)
    return Yardstick(yardstick.kind, tuple(row for row in yardstick.rows if _render(base, renderer, row) is not None))


def rendered(base: LoadedBase, rows: Sequence[Conversation]) -> tuple[TokenRow, ...]:
    """Return the rows as this base reads them, without those that its context would cut."""
    renderer = Renderer(base.tokenizer, base.template)
    found = [_render(base, renderer, row) for row in rows]
    return tuple(row for row in found if row is not None)


def nats_per_byte(base: LoadedBase, yardstick: Yardstick) -> tuple[float, Cost]:
    """Return the cross-entropy of the yardstick's text under ``base`` with whatever is attached, and what that took.

    The end of each answer is predicted too, so its nats count; its bytes do not, in any base.
    """
    started = time.perf_counter()
    rows = rendered(base, yardstick.rows)
    loss = mean_loss(base, rows) * sum(row.trained_count for row in rows) / max(1, yardstick.text_bytes)
    tokens = sum(len(row.ids) for row in rows)
    return loss, Cost(tokens=tokens, trained_tokens=0, seconds=time.perf_counter() - started, steps=0)


def _texts(row: Conversation) -> Sequence[str]:
    return [turn.content for turn in row.messages if turn.role == "assistant"] if row.messages else [row.text]


def _render(base: LoadedBase, renderer: Renderer, row: Conversation) -> TokenRow | None:
    try:
        found = renderer.row(row, max_length=base.context)
    except DataError:
        return None
    return None if found.lost else found
