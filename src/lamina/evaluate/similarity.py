"""How near an answer comes to a reference: BLEU, chrF and ROUGE as their own packages compute them, 0 to 1."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from lamina.errors import MachineError

__all__ = ["bleu", "chrf", "corpus_figures", "require_similarity", "rouge"]

_PACKAGES = {"bleu": "sacrebleu", "chrf": "sacrebleu", "rouge": "rouge_score"}


def require_similarity(scorer: str) -> None:
    """Check, before anything is generated, that the package behind ``scorer`` is there.

    Raises:
        MachineError: if it is not.
    """
    package = _PACKAGES.get(scorer)
    if package is not None and importlib.util.find_spec(package) is None:
        raise MachineError(
            f"the scorer '{scorer}' needs {package.replace('_', '-')}", hint="pip install 'lamina[eval]'"
        )


def bleu(answer: str, reference: str) -> float:
    """Return the sentence's BLEU with effective order, as sacrebleu defines it (arXiv:1804.08771)."""
    import sacrebleu

    return float(sacrebleu.sentence_bleu(answer, [reference], use_effective_order=True).score) / 100


def chrf(answer: str, reference: str) -> float:
    """Return chrF2, the F-score of character n-grams up to 6 (Popovic 2015), as sacrebleu computes it."""
    import sacrebleu

    return float(sacrebleu.sentence_chrf(answer, [reference]).score) / 100


def rouge(answer: str, reference: str) -> float:
    """Return the F1 of ROUGE-L with Porter stemming (Lin 2004), as rouge-score computes it."""
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"], use_stemmer=True).score(reference, answer)["rougeL"].fmeasure)


def corpus_figures(scorer: str, answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return what is published for a whole set, which is no mean over items: corpus BLEU or chrF, 0..1."""
    if scorer not in ("bleu", "chrf") or not answers:
        return {}
    import sacrebleu

    corpus = sacrebleu.corpus_bleu if scorer == "bleu" else sacrebleu.corpus_chrf
    return {f"corpus_{scorer}": float(corpus(list(answers), [list(references)]).score) / 100}
