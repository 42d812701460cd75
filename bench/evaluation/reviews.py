"""The Vicuna chart from its reviews: percentages and sums as published. No model is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lamina.evaluate.relative import relative_quality, sum_pairs
from lamina.evaluate.reviews import read_reviews

FOLDER = "vicuna_eval/review/vicuna-13b_20230322-clean-lang"
PUBLISHED = {
    "llama-13b": "LLaMA-13B",
    "alpaca-13b": "Alpaca-13B",
    "vicuna-13b": "Vicuna-13B",
    "bard": "Bard",
    "gpt-3.5-turbo": "ChatGPT",
}


def measure(data: Path) -> dict[str, Any]:
    """Return ``vicuna_relative`` (model -> whole percent) and ``vicuna_sums`` (model -> its sum and Vicuna's).

    Args:
        data: the folder that holds ``vicuna_eval``.
    """
    read = read_reviews(data / FOLDER)
    relative = {PUBLISHED[each.name]: round(each.percent) for each in relative_quality(read.reviews)}
    sums = {PUBLISHED[pair.first]: [pair.first_sum, pair.second_sum] for pair in sum_pairs(read.reviews)}
    return {"vicuna_relative": relative, "vicuna_sums": sums}
