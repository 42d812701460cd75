"""Progress on a terminal and in a log, with a clock of our own."""

from __future__ import annotations

import io

from lamina.cli.progress import TerminalProgress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(stream: io.StringIO) -> str:
    clock = Clock()
    with TerminalProgress(stream, clock).stage("train", total=1000, unit="tok") as tick:
        for _ in range(10):
            clock.now += 4.0
            tick(50, "step 1/20, loss 0.5")
    return stream.getvalue()


def test_a_log_gets_a_line_now_and_then_with_rate_and_eta() -> None:
    lines = run(io.StringIO()).splitlines()
    assert lines[0] == "train: 1,000 tok"
    assert "12.5 tok/s" in lines[1]
    assert "ETA 1:08" in lines[1]
    assert 4 <= len(lines) <= 6
    assert "\r" not in "".join(lines)
    assert "500 tok in 0:40" in lines[-1]


def test_a_terminal_gets_one_line_that_stays_within_80_columns() -> None:
    text = run(Terminal())
    frames = [frame.removeprefix("\x1b[2K") for frame in text.split("\r")]
    assert max(map(len, frames)) <= 80
    assert any("50%" in frame and "ETA" in frame for frame in frames)
    assert text.endswith("\n")
