"""Stopping early: evidence of harm that may be looked at after every batch."""

from __future__ import annotations

import math

import numpy as np

from lamina.evaluate.statistics.intervals import Values

__all__ = ["HARM_LEVEL", "HarmWatch"]

HARM_LEVEL = 0.05
# Kelly's bet on discordant pairs of which a share s is worse is 2 s - 1: from 55 % to 80 % of them.
_STAKES = np.array([0.1, 0.2, 0.4, 0.6])


class HarmWatch:
    """A gambler who bets that the layer does harm, and can win only if it does.

    Each unit's loss z = before - after lies in -1..1. Stake lambda of the wealth on it, and the wealth becomes
    ``prod(1 + lambda z)``; if the layer does no harm, z has no positive mean whatever came before, so that the expected
    wealth never grows, and it reaches 1 / level at any time with a chance of at most ``level`` (Ville 1939). Looking
    after every batch therefore costs nothing. Unchanged items (z = 0) leave the wealth as it is: only discordant pairs
    count. The stakes are a grid over which the wealth is spread evenly, so that none must be guessed.

    Items must come in an order that has nothing to do with how the layer changes them (drawn at random); of items that
    share a cluster, the cluster's mean is one unit. This can only refuse: only the test of all items lets a layer in.

    Source: Waudby-Smith & Ramdas 2024, J. R. Stat. Soc. B 86:1 (arXiv:2010.09686): betting, with a fixed grid of bets
    ("diversified Kelly").
    """

    def __init__(self, level: float = HARM_LEVEL) -> None:
        self._level = level
        self._log_wealth = np.zeros(len(_STAKES))

    def see(self, losses: Values) -> bool:
        """Bet on further units (before - after, each -1..1); return whether harm is proven now."""
        self._log_wealth += np.log1p(np.outer(_STAKES, losses)).sum(1)
        return self.is_proven

    @property
    def evidence(self) -> float:
        """The wealth, from 1 at the start: how many times as much as was put in."""
        highest = float(self._log_wealth.max())
        log_mean = highest + math.log(float(np.exp(self._log_wealth - highest).mean()))
        return math.exp(min(log_mean, 700.0))

    @property
    def is_proven(self) -> bool:
        """Whether the wealth is 1 / level or more: harm, with an error of at most ``level``."""
        return self.evidence >= 1 / self._level
