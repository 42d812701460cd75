"""How an answer is scored: one table of scorers, each a pure function of answer and reference to 0..1."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lamina.evaluate.extract import find_label, find_number, find_pattern
from lamina.evaluate.instructions import all_followed
from lamina.evaluate.similarity import bleu, chrf, rouge

__all__ = ["SCORERS", "Rules", "Scorer", "choice_value", "find_scorer", "is_call", "likelihood_value"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a scorer is told of the suite besides answer and reference.

    Attributes:
        pattern: the regular expression of ``regex``.
        labels: every reference of the suite, for ``label``.
    """

    pattern: str = ""
    labels: tuple[str, ...] = ()


Score = Callable[[str, str, Rules], float]
Run = Literal["answer", "choice", "likelihood", "text"]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A way to score a suite.

    Attributes:
        name: as it stands in ``scorer = "..."``.
        source: where the rule comes from.
        run: what the model does: write an answer, weigh choices, weigh the reference, weigh whole texts.
        score: the rule, None where log-probabilities or a judge decide.
    """

    name: str
    source: str
    run: Run
    score: Score | None = None


def _exact(answer: str, reference: str, rules: Rules) -> float:
    return float(answer.split() == reference.split())


def _contains(answer: str, reference: str, rules: Rules) -> float:
    return float(" ".join(reference.split()) in " ".join(answer.split()))


def _number(answer: str, reference: str, rules: Rules) -> float:
    found, wanted = find_number(answer), find_number(reference)
    return float(found is not None and wanted is not None and math.isclose(found, wanted, rel_tol=1e-6))


def _label(answer: str, reference: str, rules: Rules) -> float:
    found = find_label(answer, rules.labels)
    return float(found is not None and found == find_label(reference, rules.labels))


def _regex(answer: str, reference: str, rules: Rules) -> float:
    found = find_pattern(answer, rules.pattern)
    # The reference may be the bare answer, or a text from which the same pattern takes it.
    wanted = find_pattern(reference, rules.pattern)
    return float(found is not None and found == (reference.strip() if wanted is None else wanted))


def _call(answer: str, reference: str, rules: Rules) -> float:
    found, wanted = _first_object(answer), _first_object(reference)
    return float(found is not None and wanted is not None and _same(found, wanted))


SCORERS: tuple[Scorer, ...] = (
    Scorer("choice", "lm-evaluation-harness, acc and acc_norm of multiple_choice", "choice"),
    Scorer("exact", "same words in the same order and case; white space does not count", "answer", _exact),
    Scorer("contains", "the reference stands somewhere in the answer", "answer", _contains),
    Scorer("number", "GSM8K: the number behind the answer mark, else the last (arXiv:2110.14168)", "answer", _number),
    Scorer("label", "the last of the suite's labels that the answer names", "answer", _label),
    Scorer("regex", "what a pattern takes from the answer, as lm-evaluation-harness's regex filter", "answer", _regex),
    Scorer("call", "first JSON object: same name and arguments in any order, as BFCL's exact match", "answer", _call),
    Scorer("bleu", "sacrebleu, sentence BLEU (arXiv:1804.08771)", "answer", lambda a, r, _: bleu(a, r)),
    Scorer("chrf", "sacrebleu, chrF2 (doi:10.18653/v1/W15-3049)", "answer", lambda a, r, _: chrf(a, r)),
    Scorer("rouge", "rouge-score, ROUGE-L F1 with stemming", "answer", lambda a, r, _: rouge(a, r)),
    Scorer("instructions", "IFEval, strict (arXiv:2311.07911)", "answer", lambda a, r, _: all_followed(a, r)),
    Scorer("judged", "beside the reference, in both orders; a tie is half (arXiv:2306.05685, 3.4)", "answer"),
    Scorer("likelihood", "geometric mean probability of the reference's tokens", "likelihood"),
    Scorer("perplexity", "geometric mean probability of a byte; lm-evaluation-harness's rolling windows", "text"),
)


def find_scorer(name: str) -> Scorer:
    """Return the scorer of that name; ``config.SuiteSettings`` lets no other name through."""
    return next(scorer for scorer in SCORERS if scorer.name == name)


def choice_value(log_probs: Sequence[float], lengths: Sequence[int], gold: int) -> float:
    """Return 1 if the gold choice has the largest log-probability per unit of length, else 0.

    Args:
        log_probs: summed log-probability of each choice, in nats.
        lengths: characters of each choice for ``acc_norm``, ones for ``acc``.
        gold: the right choice's place.

    Source: lm-evaluation-harness; of equal weights the first counts, as numpy's argmax has it.
    """
    weights = [total / max(1, length) for total, length in zip(log_probs, lengths, strict=True)]
    return float(weights.index(max(weights)) == gold)


def likelihood_value(log_probs: Sequence[float]) -> float:
    """Return the geometric mean probability of a reference's tokens: exp of the mean log-probability."""
    return math.exp(sum(log_probs) / len(log_probs))


def is_call(text: str) -> bool:
    """Return whether ``text`` holds a JSON object that ``call`` can compare."""
    return _first_object(text) is not None


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
