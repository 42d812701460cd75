"""The classifier's laws: closed, the same bits in any order, probabilities; and shrinkage against its formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.route.classifier import Classifier, Points, fit, shrinkage


def draw(seed: int, classes: int = 3, width: int = 6, count: int = 8, apart: float = 4.0) -> tuple[Points, list[int]]:
    random = np.random.default_rng(seed)
    means = random.normal(size=(classes, width)) * apart
    owners = [place for place in range(classes) for _ in range(count)]
    return means[owners] + random.normal(size=(len(owners), width)), owners


def same_bits(one: Classifier, other: Classifier) -> bool:
    tensors = (getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ("means", "axes", "gains"))
    return all(tensors) and one.precision == other.precision


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_points_changes_no_bit(seed: int, random: object) -> None:
    points, owners = draw(seed)
    order = list(range(len(owners)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert same_bits(fit(points, owners, 3), fit(points[order], [owners[place] for place in order], 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 40), st.integers(1, 6))
def test_probabilities_are_probabilities(seed: int, classes: int, width: int, count: int) -> None:
    points, owners = draw(seed, classes, width, count)
    shares = fit(points, owners, classes).probabilities(np.vstack([points, points * 1e3]))
    assert shares.shape == (2 * len(owners), classes)
    assert (shares >= 0).all()
    assert shares.sum(1) == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(2, 12))
def test_distances_are_those_of_the_shrunk_covariance(seed: int, width: int, count: int) -> None:
    """What the axes and gains compute is the plain formula with the whole matrix inverted."""
    points, owners = draw(seed, 2, width, count)
    found = fit(points, owners, 2)
    means = np.stack([points[np.array(owners) == place].mean(0) for place in range(2)])
    rest = points - means[owners]
    share, spread = shrinkage(rest)
    covariance = (1 - share) * rest.T @ rest / len(points) + share * spread * np.eye(width)
    away = points[:, None, :] - means
    expected = np.einsum("nkd,de,nke->nk", away, np.linalg.inv(covariance), away)
    assert found.squared_distances(points) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_shrinkage_is_ledoit_and_wolfs() -> None:
    random = np.random.default_rng(3)
    rest = random.normal(size=(30, 5)) * [3.0, 2.0, 1.0, 1.0, 0.5]
    share, spread = shrinkage(rest)
    covariance = rest.T @ rest / 30
    ball = np.trace(covariance) / 5
    distance = ((covariance - ball * np.eye(5)) ** 2).sum() / 5
    error = sum(((np.outer(row, row) - covariance) ** 2).sum() / 5 for row in rest) / 30**2
    assert spread == pytest.approx(ball)
    assert share == pytest.approx(error / distance)
    assert 0.01 < share < 1


def test_far_classes_are_told_apart_and_strangers_are_far() -> None:
    points, owners = draw(1, classes=4, width=20, count=12, apart=6.0)
    found = fit(points[::2], owners[::2], 4)
    rest, rest_owners = points[1::2], np.array(owners[1::2])
    assert (found.probabilities(rest).argmax(1) == rest_owners).all()
    own = found.squared_distances(rest)[np.arange(len(rest)), rest_owners]
    strangers = found.squared_distances(np.random.default_rng(9).normal(size=(20, 20)) * 20).min(1)
    assert strangers.min() > own.max()


def test_points_that_do_not_differ_still_give_a_classifier() -> None:
    found = fit(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), [0, 0, 1], 2)
    assert found.probabilities(np.array([[0.9, 0.1], [0.2, 0.8]])).argmax(1).tolist() == [0, 1]


def test_a_class_without_points_is_refused() -> None:
    with pytest.raises(ValueError, match="class 1 has no point"):
        fit(np.eye(3), [0, 0, 2], 3)
