"""Which sums of layers are kept as one adapter."""

from __future__ import annotations

from lamina.serve.engine import Layers
from lamina.serve.llama_sums import AskedSums


def stack(number: int) -> Layers:
    return (("a", float(number)), ("b", 1.0))


def test_a_sum_is_due_when_it_is_asked_for_again_and_one_a_minute() -> None:
    sums = AskedSums()
    assert [sums.is_due(stack(number), 0.0) for number in (1, 2, 1, 2, 1)] == [False, False, True, False, False]
    assert not sums.is_due(stack(2), 59.0)
    assert sums.is_due(stack(2), 60.0)


def test_a_slider_that_is_moved_makes_nothing_due_and_is_forgotten() -> None:
    sums = AskedSums()
    assert not any(sums.is_due(stack(number), 0.0) for number in range(1000))
    assert not sums.is_due(stack(0), 0.0)
    assert sums.is_due(stack(999), 0.0)


def test_the_last_four_are_kept() -> None:
    sums = AskedSums()
    for number in range(6):
        sums.keep(stack(number))
    assert sums.kept == tuple(map(stack, (2, 3, 4, 5)))
