"""Progress for people, on stderr: a bar with rate and ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from lamina.records import Tick

__all__ = ["TerminalProgress"]

_LINE_EVERY_S = 10.0


class TerminalProgress:
    """A ``Progress`` on a terminal or in a log.

    Args:
        stream: where to write; None means stderr.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Remember stream and clock."""
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock

    def note(self, text: str) -> None:
        """Say one line."""
        # A bar that stands on the terminal's line is wiped first; its stage draws it again below.
        clear = "\r\x1b[2K" if self._stream.isatty() else ""
        print(f"{clear}{text}", file=self._stream, flush=True)

    @contextmanager
    def stage(self, label: str, *, total: float, unit: str) -> Iterator[Tick]:
        """Open a stage of ``total`` units and yield its tick."""
        meter = _Meter(label, total, unit, self._clock)
        live = self._stream.isatty()
        last = self._clock()

        def tick(amount: float, detail: str = "") -> None:
            nonlocal last
            meter.advance(amount, detail)
            if live:
                width = shutil.get_terminal_size().columns - 1
                self._stream.write(f"\r\x1b[2K{meter.line(bar=True)[:width]}")
                self._stream.flush()
            elif self._clock() - last >= _LINE_EVERY_S:
                last = self._clock()
                self.note(meter.line(bar=False))

        if live:
            tick(0)
        else:
            self.note(f"{label}: {total:,.0f} {unit}")
        try:
            yield tick
        finally:
            self.note(meter.summary())


class _Meter:
    """How far a stage is, how fast, and how long it will take."""

    def __init__(self, label: str, total: float, unit: str, clock: Callable[[], float]) -> None:
        self._label, self._total, self._unit, self._clock = label, total, unit, clock
        self._started = clock()
        self._done = 0.0
        self._skipped = 0.0
        self._detail = ""

    def advance(self, amount: float, detail: str) -> None:
        # What a resumed run brings along arrives at once, at the start: it is done, but says nothing about speed.
        if self._done == 0.0 and self._clock() - self._started < 0.01:
            self._skipped = amount
        self._done += amount
        self._detail = detail or self._detail

    def line(self, *, bar: bool) -> str:
        rate = self._rate()
        eta = _clock_time((self._total - self._done) / rate) if rate > 0 else "--:--"
        speed = f"{rate:,.1f} {self._unit}/s" if rate else f"… {self._unit}/s"
        share = min(1.0, self._done / self._total) if self._total else 1.0
        filled = int(share * 16)
        drawn = f" {'█' * filled}{'░' * (16 - filled)} " if bar else ": "
        return f"{self._label}{drawn}{share:4.0%}  {speed}  ETA {eta}  {self._detail}".rstrip()

    def summary(self) -> str:
        elapsed = self._clock() - self._started
        detail = f", {self._detail}" if self._detail else ""
        rate = f", {self._rate():,.1f} {self._unit}/s" if self._rate() else ""
        return f"{self._label}: {self._done:,.0f} {self._unit} in {_clock_time(elapsed)}{rate}{detail}"

    def _rate(self) -> float:
        elapsed = self._clock() - self._started
        return (self._done - self._skipped) / elapsed if elapsed > 0 else 0.0


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
