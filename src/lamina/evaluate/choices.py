"""Multiple choice by log-likelihood: fast in bfloat16, and what lies within its rounding decided in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lamina.data.render import Renderer
from lamina.evaluate.scorers import choice_value
from lamina.evaluate.suites import Item, Suite
from lamina.infer.score import continuation, score_rows
from lamina.model.base import LoadedBase
from lamina.records import Tick, TokenRow

__all__ = ["Exact", "Weighed", "choice_rows", "weigh_choices"]

# Measured on SmolLM2-135M (docs/design/scoring.md): the rounding of a difference between two choices, in nats for the
# root of a scored token, is 0.04 at one standard deviation.
_ROUNDING = 0.12

Exact = Callable[[], "LoadedBase | None"]


@dataclass(frozen=True, slots=True)
class Weighed:
    """An item's choices: summed log-probability in nats, scored tokens and characters of each."""

    log_probs: tuple[float, ...]
    tokens: tuple[int, ...]
    lengths: tuple[int, ...]

    def value(self, metric: str, gold: int) -> float:
        """Return 1 if the gold choice wins by ``acc`` or ``acc_norm``, else 0."""
        return choice_value(self.log_probs, self._units(metric), gold)

    def _units(self, metric: str) -> Sequence[int]:
        return self.lengths if metric == "acc_norm" else (1,) * len(self.lengths)

    def is_close(self, metric: str) -> bool:
        """Return whether rounding in bfloat16 may have decided."""
        units = self._units(metric)
        weights = [total / unit for total, unit in zip(self.log_probs, units, strict=True)]
        noise = [count / unit**2 for count, unit in zip(self.tokens, units, strict=True)]
        best = weights.index(max(weights))
        return any(
            weights[best] - weight < _ROUNDING * math.sqrt(noise[best] + own)
            for place, (weight, own) in enumerate(zip(weights, noise, strict=True))
            if place != best
        )


def weigh_choices(
    base: LoadedBase,
    rows: Sequence[Sequence[TokenRow]],
    items: Sequence[Item],
    tick: Tick,
    *,
    metric: str,
    exact: Exact | None = None,
) -> list[Weighed]:
    """Return every item's choices weighed; what bfloat16 cannot decide is weighed again by ``exact()``.

    Args:
        base: the base with whatever layers are attached.
        rows: each item's choices as rows.
        items: the items.
        tick: advances by one per item.
        metric: the one that counts, and that is to be sure of; the other may be off by what rounding does.
        exact: returns the same stack in float32, or None where memory does not hold it; asked at most once.
    """
    weighed = _weigh(base, rows, items)
    # Where every weight is float32 there is nothing to gain; the head has the model's dtype.
    close = [place for place, each in enumerate(weighed) if each.is_close(metric)]
    precise = exact() if exact is not None and close and base.head.weight.dtype != torch.float32 else None
    tick(len(items) - (len(close) if precise is not None else 0))
    if precise is not None:
        again = _weigh(precise, [rows[place] for place in close], [items[place] for place in close])
        for place, each in zip(close, again, strict=True):
            weighed[place] = each
        tick(len(close), f"{len(close)} close ones in float32")
    return weighed


def _weigh(base: LoadedBase, rows: Sequence[Sequence[TokenRow]], items: Sequence[Item]) -> list[Weighed]:
    scores = iter(score_rows(base, [row for choices in rows for row in choices]))
    return [
        Weighed(
            tuple(math.fsum(next(scores)) for _ in choices),
            tuple(row.trained_count for row in choices),
            tuple(max(1, len(choice)) for choice in item.choices),
        )
        for choices, item in zip(rows, items, strict=True)
    ]


def choice_rows(renderer: Renderer, suite: Suite, item: Item) -> list[TokenRow]:
    """Return an item's choices as rows: running text as the choice suites of the field have it, or a chat turn."""
    if not suite.is_plain:
        turns = tuple(turn for shot in suite.shots for turn in shot.solved())
        asked = renderer.prompt((*turns, *item.prompt))
        ends = [renderer.tokenizer.encode(choice, add_special_tokens=False) for choice in item.choices]
        return [TokenRow((*asked, *end), (False,) * len(asked) + (True,) * len(end)) for end in ends]
    start = renderer.bos()
    shown = "".join(f"{shot.prompt[-1].content} {shot.reference}\n\n" for shot in suite.shots)
    context = shown + item.prompt[-1].content
    return [continuation(renderer.tokenizer, context, f" {choice}", start) for choice in item.choices]
