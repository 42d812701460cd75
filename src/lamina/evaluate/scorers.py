"""How an answer is scored: pure functions of answer and reference, 0 to 1."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["ANSWER_SCORERS", "choice_value", "likelihood_value"]


def _exact(answer: str, reference: str) -> float:
    return float(answer.split() == reference.split())


def _contains(answer: str, reference: str) -> float:
    return float(" ".join(reference.split()) in " ".join(answer.split()))


def _number(answer: str, reference: str) -> float:
    found, wanted = _last_number(answer), _last_number(reference)
    return float(found is not None and wanted is not None and math.isclose(found, wanted, rel_tol=1e-6))


def _call(answer: str, reference: str) -> float:
    found, wanted = _first_object(answer), _first_object(reference)
    return float(found is not None and wanted is not None and _same(found, wanted))


ANSWER_SCORERS: Mapping[str, Callable[[str, str], float]] = {
    "exact": _exact,  # same words in the same order and case; white space does not count
    "contains": _contains,  # the reference stands somewhere in the answer
    "number": _number,  # same last number, as GSM8K is scored (arXiv:2110.14168)
    "call": _call,  # first JSON object: same name and arguments, in any order (as BFCL's exact match)
}


def choice_value(log_probs: Sequence[float], lengths: Sequence[int], gold: int) -> float:
    """Return 1 if the gold choice has the largest log-probability per character, else 0.

    Args:
        log_probs: summed log-probability of each choice, in nats.
        lengths: characters of each choice.
        gold: the right choice's place.

    Source: ``acc_norm`` of lm-evaluation-harness.
    """
    weights = [total / max(1, length) for total, length in zip(log_probs, lengths, strict=True)]
    return float(weights.index(max(weights)) == gold)


def likelihood_value(log_probs: Sequence[float]) -> float:
    """Return the geometric mean probability of a reference's tokens: exp of the mean log-probability."""
    return math.exp(sum(log_probs) / len(log_probs))


def _last_number(text: str) -> float | None:
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+", text)
    return float(found[-1].replace(",", "")) if found else None


def _first_object(text: str) -> dict[str, Any] | None:
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return value if isinstance(value, dict) else None
    return None


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(_same(found[key], wanted[key]) for key in wanted)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    if isinstance(found, str) and isinstance(wanted, str):
        return found.strip() == wanted.strip()
    # bool is an int to Python, not to JSON.
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)
