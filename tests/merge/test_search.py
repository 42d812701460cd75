"""The search finds the bottom of a bowl, within its budget and bounds, the same way every time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.merge.search import Point, pattern_search


def bowl(*centre: float):  # type: ignore[no-untyped-def]
    return lambda point: sum((a - b) ** 2 for a, b in zip(point, centre, strict=True))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 2), min_size=1, max_size=3))
def test_it_finds_the_bottom(centre: list[float]) -> None:
    found = pattern_search(bowl(*centre), [1.0] * len(centre), low=0.0, high=2.0, smallest=0.01, budget=500)
    assert all(abs(a - b) <= 0.02 for a, b in zip(found.point, centre, strict=True))
    assert found.value <= found.start_value


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.lists(st.floats(-1, 3), min_size=2, max_size=4))
def test_it_keeps_its_budget_and_bounds_and_measures_nothing_twice(budget: int, centre: list[float]) -> None:
    seen: list[Point] = []

    def watch(point: Point) -> float:
        seen.append(point)
        return float(bowl(*centre)(point))

    found = pattern_search(watch, [1.0] * len(centre), low=0.0, high=2.0, budget=budget)
    assert len(seen) == len(set(seen)) == found.evaluations <= budget
    assert all(0.0 <= number <= 2.0 for point in seen for number in point)
    assert found.value == min(map(bowl(*centre), seen))


def test_it_stays_where_nothing_is_better() -> None:
    found = pattern_search(lambda point: 1.0, [1.0, 1.0], low=0.0, high=2.0)
    assert (found.point, found.value) == ((1.0, 1.0), 1.0)
