"""Bytes on a progress bar: kilobytes where there are few of them, else megabytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lamina.records import Progress, Tick

__all__ = ["byte_stage"]

_FEW_BYTES = 10_000_000


@contextmanager
def byte_stage(progress: Progress, label: str, total_bytes: int) -> Iterator[Tick]:
    """Open a stage of ``total_bytes`` and yield a tick that takes bytes."""
    unit, size = ("kB", 1e3) if total_bytes < _FEW_BYTES else ("MB", 1e6)
    with progress.stage(label, total=total_bytes / size, unit=unit) as tick:
        yield lambda amount, detail="": tick(amount / size, detail)
