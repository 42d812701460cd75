"""Rendered rows, kept on disk under a key of everything that made them (law 11).

The key covers the rows' content, template, tokenizer, length limit and the source of the rendering code itself, so a
change to any of them renders anew.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lamina.data import render
from lamina.data.identity import row_identity
from lamina.records import Conversation, TokenRow
from lamina.refs import Digest

__all__ = ["cache_key", "cached_rows"]


def cache_key(parts: Sequence[str], rows: Sequence[Conversation]) -> str:
    """Return the key under which ``rows``, rendered under ``parts``, are kept."""
    code = inspect.getsource(render)
    return Digest.of_bytes("\n".join([code, *parts, *(row_identity(row) for row in rows)]).encode()).hex


def cached_rows(
    folder: Path, parts: Sequence[str], rows: Sequence[Conversation], make: Callable[[], list[TokenRow]]
) -> list[TokenRow]:
    """Return ``make()``'s rows, from ``folder`` when they are there.

    Rows that were cut to fit are not kept: the caller may refuse them, and then nothing may have been written.

    Args:
        folder: where the cache lies; made on demand.
        parts: digests of template and tokenizer, and the length limit.
        rows: the rows to render.
        make: renders them.
    """
    path = folder / f"{cache_key(parts, rows)}.safetensors"
    try:
        return _unpack(load_file(path), rows)
    except (OSError, SafetensorError, KeyError):
        made = make()
    if made and not any(row.lost for row in made):
        folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}")
        save_file(_pack(made), scratch)
        scratch.replace(path)
    return made


def _pack(rows: Sequence[TokenRow]) -> dict[str, np.ndarray]:
    return {
        "ids": np.array([token for row in rows for token in row.ids], dtype=np.int32),
        "trained": np.array([flag for row in rows for flag in row.trained], dtype=np.uint8),
        "lengths": np.array([len(row.ids) for row in rows], dtype=np.int64),
    }


def _unpack(stored: dict[str, np.ndarray], rows: Sequence[Conversation]) -> list[TokenRow]:
    ends = np.cumsum(stored["lengths"]).tolist()
    starts = [0, *ends[:-1]]
    ids, trained = stored["ids"].tolist(), [bool(flag) for flag in stored["trained"]]
    spans = zip(starts, ends, rows, strict=True)
    return [TokenRow(tuple(ids[a:b]), tuple(trained[a:b]), row.file, row.row, lost=0) for a, b, row in spans]
