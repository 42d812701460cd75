"""What both sides of the speed bench share: the job, and how a process reports."""

from __future__ import annotations

import json
import resource
import statistics
from pathlib import Path
from typing import Any

RANK = 16
ALPHA = 32
MAX_LENGTH = 1024
LEARNING_RATE = 2e-4


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return (question, answer) pairs."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(row["question"], row["answer"]) for row in rows]


def largest_memory() -> int:
    """Return the largest memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(tokens: list[int], seconds: list[float], **figures: Any) -> None:
    """Print one JSON line: the median rate over all steps but the first, and this process's largest memory."""
    rates = [count / took for count, took in zip(tokens[1:], seconds[1:], strict=True)]
    step_s = statistics.median(seconds[1:])
    print(
        json.dumps(
            {"tokens_per_s": statistics.median(rates), "step_s": step_s, "peak_bytes": largest_memory(), **figures}
        )
    )
