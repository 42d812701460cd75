"""A guard watched while it is scored, so that a harmful layer need not be scored to the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from lamina.evaluate.statistics.sequential import HarmWatch
from lamina.records import Score

__all__ = ["GuardWatch"]


class GuardWatch:
    """Takes in a guard's items as they are scored, in random order, and says when harm is proven.

    Of items that share a cluster the mean loss is one unit, once all of them are there.
    """

    def __init__(self, before: Score) -> None:
        self.before = before
        self._harm = HarmWatch()
        self._values: dict[int, float] = {}
        self._missing = Counter(before.clusters)
        self._open: dict[str, list[float]] = {}

    def see(self, values: Mapping[int, float]) -> bool:
        """Take in further items (place in the suite: value, NaN if unscored); return whether to stop."""
        self._values |= values
        losses = [
            loss for place, value in values.items() for loss in self._losses(place, value) if not math.isnan(loss)
        ]
        return self._harm.see(np.array(losses))

    @property
    def evidence(self) -> float:
        """How strongly the items seen speak for harm: the wealth of ``HarmWatch``."""
        return self._harm.evidence

    def seen(self) -> tuple[list[float], list[float], list[str]]:
        """Return what the items seen so far scored before and after, and their clusters, if there are any."""
        places = sorted(self._values)
        clusters = [self.before.clusters[place] for place in places] if self.before.clusters else []
        return [self.before.values[place] for place in places], [self._values[place] for place in places], clusters

    def _losses(self, place: int, value: float) -> list[float]:
        loss = self.before.values[place] - value
        if not self.before.clusters:
            return [loss]
        cluster = self.before.clusters[place]
        self._open.setdefault(cluster, []).append(loss)
        self._missing[cluster] -= 1
        if self._missing[cluster]:
            return []
        known = [each for each in self._open.pop(cluster) if not math.isnan(each)]
        return [math.fsum(known) / len(known)] if known else []
