"""Which rows a layer has seen, as the blob ``LayerConfig.rows`` lists them: hashes only, never a word of the rows.

One line for each row, sorted: ``row prompt file side``. ``row`` is the row's identity and ``prompt`` that of everything
in it but its last answer; ``file`` counts the layer's recorded files from 0; ``side`` says whether the row was trained
on or held out. ``-`` stands for what is not known. Lists of earlier versions hold the row's identity alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lamina.stack.manifest import LayerConfig
from lamina.stack.store import Store

__all__ = ["SeenRow", "format_seen", "parse_seen", "read_seen"]

_UNKNOWN = "-"
_SIDES = {"train": False, "heldout": True}
_SIDE_NAMES = {False: "train", True: "heldout", None: _UNKNOWN}


@dataclass(frozen=True, slots=True)
class SeenRow:
    """A row that a layer has seen, by its hashes.

    Attributes:
        row: identity of the row.
        prompt: identity of everything in it but its last answer; None for plain text, and where it was not recorded.
        file: which of the layer's recorded files it stood in, None where it was not recorded.
        heldout: whether it was held out of training, None where it was not recorded.
    """

    row: str
    prompt: str | None = None
    file: int | None = None
    heldout: bool | None = None


def read_seen(store: Store, layer: LayerConfig) -> list[SeenRow]:
    """Return the rows that ``layer`` has seen, sorted by identity.

    Raises:
        StackError: if the list is missing or damaged.
    """
    return parse_seen(store.read_bytes(layer.rows))


def parse_seen(content: bytes) -> list[SeenRow]:
    """Return the rows that ``format_seen``, of this or an earlier version, wrote."""
    found = []
    for line in content.decode().splitlines():
        row, prompt, file, side, *_ = [*line.split(), _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN]
        if row != _UNKNOWN:
            found.append(
                SeenRow(
                    row,
                    prompt=None if prompt == _UNKNOWN else prompt,
                    file=int(file) if file.isdigit() else None,
                    heldout=_SIDES.get(side),
                )
            )
    return found


def format_seen(rows: Iterable[SeenRow]) -> bytes:
    """Return the list of ``rows``, which has one spelling however they are ordered."""
    lines = (
        " ".join(
            (row.row, row.prompt or _UNKNOWN, _UNKNOWN if row.file is None else str(row.file), _SIDE_NAMES[row.heldout])
        )
        for row in rows
    )
    return "\n".join(sorted(lines)).encode()
