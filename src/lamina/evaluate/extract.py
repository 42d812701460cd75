"""What an answer says once its words are set aside: a number, a label, what a pattern finds."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["find_label", "find_number", "find_pattern"]

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+"
# "####" marks the answer in GSM8K's references, "A:" in its example solutions.
_MARKED = re.compile(rf"(?:####|^\s*A:)\s*\$?\s*({_NUMBER})", re.MULTILINE)


def find_number(text: str) -> float | None:
    """Return the number behind the last answer mark (``####``, or ``A:`` opening a line), else the last number.

    Source: ``extract_answer`` of openai/grade-school-math takes what follows ``####`` without its commas; the last
    number is what lm-evaluation-harness calls flexible-extract.
    """
    found = _MARKED.findall(text) or re.findall(_NUMBER, text)
    return float(found[-1].replace(",", "")) if found else None


def find_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that ``text`` names last, None if it names none.

    Labels are whole words in any case; ``_`` and ``-`` count as spaces. Where one label lies inside another ("card",
    "card arrival"), the longer one is meant.
    """
    said = _plain(text)
    best: tuple[int, int] | None = None
    named = None
    for label in labels:
        words = _plain(label)
        for match in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", said) if words else ():
            place = (match.end(), len(words))
            if best is None or place > best:
                best, named = place, label
    return named


def find_pattern(text: str, pattern: str) -> str | None:
    """Return what ``pattern`` finds first in ``text``: its first group if it has one, stripped; None if nothing."""
    match = re.search(pattern, text)
    if match is None:
        return None
    taken: str | None = match.group(1) if match.re.groups else match.group(0)
    return None if taken is None else taken.strip()


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[_\-]", " ", text.lower()).split())
