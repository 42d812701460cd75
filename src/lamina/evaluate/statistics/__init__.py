"""Intervals, paired tests, power and early stopping: pure functions of per-item values; numpy, never torch."""

from lamina.evaluate.statistics.intervals import interval
from lamina.evaluate.statistics.loss import items_for, items_needed, loss_p, upper_loss
from lamina.evaluate.statistics.paired import better_p, bootstrap_interval, mcnemar_p, pair, sign_flip_p
from lamina.evaluate.statistics.sequential import HarmWatch

__all__ = [
    "HarmWatch",
    "better_p",
    "bootstrap_interval",
    "interval",
    "items_for",
    "items_needed",
    "loss_p",
    "mcnemar_p",
    "pair",
    "sign_flip_p",
    "upper_loss",
]
