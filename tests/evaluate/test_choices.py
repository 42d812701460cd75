"""Close choices are decided in float32, clear ones are not asked again."""

from __future__ import annotations

import pytest

from lamina.evaluate import choices as module
from lamina.evaluate.choices import Weighed, weigh_choices
from lamina.evaluate.suites import Item
from lamina.model.base import LoadedBase
from lamina.records import Message, TokenRow

ROWS = [TokenRow((1, 2, 3, 4, end), (False,) * 4 + (True,)) for end in (5, 6)]
ITEM = Item((Message("user", "q"),), "a", ("a", "b"), 0)


def test_metrics_are_the_harness_ones() -> None:
    weighed = Weighed((-4.0, -6.0), (2, 2), (2, 6))
    assert (weighed.value("acc", 0), weighed.value("acc_norm", 0)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("log_probs", "tokens", "lengths", "close"),
    [
        ((-4.0, -4.1), (1, 1), (1, 1), True),
        ((-4.0, -5.0), (1, 1), (1, 1), False),
        ((-4.0, -5.0), (40, 40), (1, 1), True),
        ((-4.0, -8.0), (4, 4), (1, 2), False),
        ((-4.0, -9.0, -4.0), (1, 1, 1), (1, 1, 1), True),
    ],
)
def test_what_rounding_may_decide_is_close(
    log_probs: tuple[float, ...], tokens: tuple[int, ...], lengths: tuple[int, ...], close: bool
) -> None:
    assert Weighed(log_probs, tokens, lengths).is_close("acc") is close


def test_what_is_close_depends_on_the_metric() -> None:
    weighed = Weighed((-4.0, -8.0), (4, 4), (1, 2))
    assert (weighed.is_close("acc"), weighed.is_close("acc_norm")) == (False, True)


def test_only_close_items_are_weighed_again(llama_base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [((-1.0, -9.0), (-1.0, -1.01)), ((-2.0, -1.0),)]
    asked: list[int] = []

    def weigh(base: LoadedBase, rows: list[list[TokenRow]], items: list[Item]) -> list[Weighed]:
        asked.append(len(items))
        return [Weighed(log_probs, (1, 1), (1, 1)) for log_probs in said[len(asked) - 1]]

    monkeypatch.setattr(module, "_weigh", weigh)
    ticks: list[float] = []
    half = llama_base.model.bfloat16() and llama_base
    object.__setattr__(half.head, "weight", half.head.weight.bfloat16())
    found = weigh_choices(
        half,
        [ROWS, ROWS],
        [ITEM, ITEM],
        lambda amount, detail="": ticks.append(amount),
        metric="acc",
        exact=lambda: llama_base,
    )
    assert asked == [2, 1]
    assert [each.log_probs for each in found] == [(-1.0, -9.0), (-2.0, -1.0)]
    assert sum(ticks) == 2


def test_float32_is_not_asked_twice(llama_base: LoadedBase) -> None:
    def exact() -> LoadedBase:
        raise AssertionError

    same = [ROWS[0], ROWS[0]]
    (found,) = weigh_choices(llama_base, [same], [ITEM], lambda amount, detail="": None, metric="acc", exact=exact)
    assert found.is_close("acc")
