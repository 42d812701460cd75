"""Ratings and length control against numbers worked out by hand, and their laws."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.evaluate.length import length_controlled
from lamina.evaluate.ratings import Match, rate_models

PLAYED = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0])).filter(
        lambda match: match[0] != match[1]
    ),
    min_size=6,
    max_size=20,
).filter(lambda played: len({name for match in played for name in match[:2]}) == 3)
RING = [("a", "b", 1.0), ("b", "c", 1.0), ("c", "a", 1.0)]  # everybody has won and lost: a finite best fit


def values(played: list[tuple[str, str, float]], anchor: str = "a") -> dict[str, float]:
    rated = rate_models([Match(*match) for match in played], anchor)
    return {rating.name: rating.value for rating in rated}


def test_two_models_by_hand() -> None:
    # 3 wins of 4: odds 3, so 400 log10 3 = 190.85 points.
    found = values([("a", "b", 1.0)] * 3 + [("a", "b", 0.0)])
    assert found == pytest.approx({"a": 1000.0, "b": 1000 - 400 * math.log10(3)}, abs=0.05)


def test_three_models_by_hand() -> None:
    # Odds 2 from a to b and 4 from b to c, and a beats c 8 times of 9: exactly consistent.
    played = [("a", "b", 1.0)] * 2 + [("a", "b", 0.0)] + [("b", "c", 1.0)] * 4 + [("b", "c", 0.0)]
    played += [("a", "c", 1.0)] * 8 + [("a", "c", 0.0)]
    expected = {"a": 1000 + 400 * math.log10(8), "b": 1000 + 400 * math.log10(4), "c": 1000.0}
    assert values(played, "c") == pytest.approx(expected, abs=0.2)


@settings(max_examples=25, deadline=None)
@given(PLAYED, st.randoms(use_true_random=False))
def test_order_of_matches_and_of_sides_does_not_matter(
    played: list[tuple[str, str, float]], shuffle: random.Random
) -> None:
    turned = [(b, a, 1 - score) if shuffle.random() < 0.5 else (a, b, score) for a, b, score in played + RING]
    shuffle.shuffle(turned)
    assert values(turned) == pytest.approx(values(played + RING), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(PLAYED)
def test_names_do_not_matter_and_twice_the_matches_say_the_same(played: list[tuple[str, str, float]]) -> None:
    renamed = {"a": "c", "b": "a", "c": "b"}
    found = values(played + RING)
    moved = values([(renamed[a], renamed[b], score) for a, b, score in played + RING], "c")
    assert {renamed[name]: value for name, value in found.items()} == pytest.approx(moved, abs=1e-6)
    assert values((played + RING) * 2) == pytest.approx(found, abs=0.5)  # the ridge weighs half as much


@settings(max_examples=25, deadline=None)
@given(PLAYED)
def test_a_tie_is_half_a_win_for_each(played: list[tuple[str, str, float]]) -> None:
    split = [match for a, b, _ in RING for match in ((a, b, 1.0), (a, b, 0.0))]
    tied = [match for a, b, _ in RING for match in ((a, b, 0.5), (a, b, 0.5))]
    assert values(played + RING + split) == pytest.approx(values(played + RING + tied), abs=1e-6)


def test_an_unbeaten_model_has_no_upper_bound() -> None:
    best, worst = rate_models([Match("a", "b", 1.0)] * 5)
    assert (best.name, best.high, worst.low) == ("a", math.inf, -math.inf)
    assert math.isfinite(best.value)


def test_intervals_hold_the_rating_and_groups_are_drawn_together() -> None:
    draw = random.Random(3)
    single = [Match("a", "b", float(draw.random() < 0.7)) for _ in range(60)]
    ten_times = [Match("a", "b", match.score, str(place)) for place, match in enumerate(single) for _ in range(10)]
    one = next(rating for rating in rate_models(single, "a") if rating.name == "b")
    many = next(rating for rating in rate_models(ten_times, "a") if rating.name == "b")
    assert one.low < one.value < one.high
    # Ten copies of each match are no more evidence: the interval stays as wide.
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.15)


def test_what_cannot_be_rated_is_told() -> None:
    with pytest.raises(ValueError, match="no matches"):
        rate_models([])
    with pytest.raises(ValueError, match="'c' and 'a' are not linked"):
        rate_models([Match("a", "b", 1.0), Match("c", "d", 1.0)])


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=20),
    st.sampled_from([-7.0, 0.0, 300.0]),
)
@settings(max_examples=20, deadline=None)
def test_equal_gaps_change_nothing(verdicts: list[float], gap: float) -> None:
    rate, low, high = length_controlled(verdicts, [gap] * len(verdicts))
    assert rate == pytest.approx(sum(verdicts) / len(verdicts))
    assert low <= rate <= high


JUDGED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-500, 500).map(float)), min_size=2, max_size=20
)


@given(JUDGED, st.sampled_from([0.01, 3.0, 1000.0]))
@settings(max_examples=20, deadline=None)
def test_the_unit_of_length_does_not_matter_and_swapping_the_sides_turns_it_round(
    judged: list[tuple[float, float]], unit: float
) -> None:
    verdicts, gaps = [value for value, _ in judged], [gap for _, gap in judged]
    rate, _, _ = length_controlled(verdicts, gaps)
    assert length_controlled(verdicts, [gap * unit for gap in gaps])[0] == pytest.approx(rate, abs=1e-7)
    swapped, _, _ = length_controlled([1 - value for value in verdicts], [-gap for gap in gaps])
    assert swapped == pytest.approx(1 - rate, abs=1e-7)


def test_length_is_taken_out() -> None:
    # The longer answer wins nine times in ten, and a's is the longer one three times in four: beside length nothing.
    verdicts = [1.0] * 54 + [0.0] * 6 + [1.0] * 2 + [0.0] * 18
    rate, low, high = length_controlled(verdicts, [100.0] * 60 + [-100.0] * 20)
    assert sum(verdicts) / 80 == 0.7
    assert rate == pytest.approx(0.5, abs=0.005)
    assert low <= 0.5 <= high
    # a wins three times in four whatever the lengths: nothing is taken away.
    verdicts, gaps = [1.0, 1.0, 1.0, 0.0] * 20, ([100.0] * 4 + [-100.0] * 4) * 10
    assert length_controlled(verdicts, gaps)[0] == pytest.approx(0.75, abs=1e-6)


def test_a_two_by_two_table_by_hand() -> None:
    # Gaps of +-1 standard deviation, tanh(1) = 0.7616 each way. Longer: 8 of 10; shorter: 4 of 10. Without the ridge
    # theta is the mean of the two logits, (1.3863 - 0.4055) / 2 = 0.4904, a rate of 0.6202.
    verdicts = [1.0] * 8 + [0.0] * 2 + [1.0] * 4 + [0.0] * 6
    assert length_controlled(verdicts, [5.0] * 10 + [-5.0] * 10)[0] == pytest.approx(0.6202, abs=0.0005)


def test_nothing_and_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="0 values and 0 gaps"):
        length_controlled([], [])
    with pytest.raises(ValueError, match="1 values and 2 gaps"):
        length_controlled([1.0], [1.0, 2.0])
