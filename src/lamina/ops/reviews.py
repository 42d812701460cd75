"""``lamina chart --reviews``: a folder of FastChat reviews as the chart of the Vicuna blog. Needs no project."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.evaluate.ratings import Match, Rating, rate_models
from lamina.evaluate.relative import Pair, relative_quality, sum_pairs
from lamina.evaluate.reviews import BadRow, Review, read_reviews
from lamina.records import Quality
from lamina.report.quality import draw_quality
from lamina.stack.store import disk_errors

__all__ = ["ReviewChart", "chart_reviews"]


@dataclass(frozen=True, slots=True)
class ReviewChart:
    """What the reviews come to: qualities worst first, pairs, ratings best first, rows left out, and the picture."""

    reference: str
    reviews: int
    qualities: tuple[Quality, ...]
    pairs: tuple[Pair, ...]
    ratings: tuple[Rating, ...]
    bad: tuple[BadRow, ...]
    picture: Path

    def to_dict(self) -> dict[str, Any]:
        """Return it for ``--json``; ``relative`` is whole percents, as in the chart."""
        return {
            "reference": self.reference,
            "relative": {each.name: round(each.percent) for each in self.qualities},
            "models": [dataclasses.asdict(each) for each in self.qualities],
            "sums": {f"{pair.first} / {pair.second}": [pair.first_sum, pair.second_sum] for pair in self.pairs},
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
            "ratings": [
                {key: value if isinstance(value, str) or math.isfinite(value) else None for key, value in row.items()}
                for row in map(dataclasses.asdict, self.ratings)
            ],
            "reviews": self.reviews,
            "bad": len(self.bad),
            "bad_rows": [str(row) for row in self.bad],
            "chart": str(self.picture),
        }


def chart_reviews(folder: Path, out: Path, reference: str | None) -> ReviewChart:
    """Draw ``reviews.png`` and ``reviews.svg`` into ``out`` and return what they show.

    Raises:
        DataError: if the folder holds no usable reviews.
        UsageError: if ``reference`` was never reviewed.
        MachineError: if the pictures cannot be written.
    """
    read = read_reviews(folder)
    qualities = relative_quality(read.reviews, reference)
    best = reference or qualities[-1].name
    drawing = draw_quality(qualities, name="reviews", title="Relative quality by a judge's scores", of=best)
    with disk_errors(out):
        picture, _ = drawing.write(out)
    return ReviewChart(
        best,
        len(read.reviews),
        qualities,
        sum_pairs(read.reviews),
        rate_models([_match(review) for review in read.reviews]),
        read.bad,
        picture,
    )


def _match(review: Review) -> Match:
    ahead = review.first_score - review.second_score
    return Match(review.first, review.second, 0.5 + 0.5 * (ahead > 0) - 0.5 * (ahead < 0), review.question)
