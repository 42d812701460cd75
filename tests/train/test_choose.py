"""What is chosen from the data: within range for any data, monotone, and never over what somebody set."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.config import Recipe
from lamina.train.choose import Choice, DataSize, choose
from lamina.train.schedule import plan_steps

WIDTHS = 305_280  # of SmolLM2-135M
KEYS = {"rank", "batch_rows", "epochs", "learning_rate"}
sizes = st.builds(
    DataSize,
    rows=st.integers(1, 10**9),
    trained_tokens=st.integers(1, 10**13),
    parameters_per_rank=st.integers(1, 10**9),
    is_known=st.booleans(),
)


def size(rows: int, trained_tokens: int = 20_000) -> DataSize:
    return DataSize(rows=rows, trained_tokens=trained_tokens, parameters_per_rank=WIDTHS)


def values(choices: dict[str, Choice]) -> dict[str, float]:
    return {key: choice.value for key, choice in choices.items()}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, {"batch_rows": 4, "epochs": 24.0, "learning_rate": 7.5e-4}),
        (40, {"batch_rows": 4, "epochs": 3.0, "learning_rate": 7.5e-4}),
        (144, {"batch_rows": 4, "epochs": 2.0, "learning_rate": 7.5e-4}),
        (300, {"batch_rows": 4, "epochs": 2.0, "learning_rate": 5e-4}),
        (1_599, {"batch_rows": 4, "epochs": 2.0, "learning_rate": 5e-4}),
        (1_600, {"batch_rows": 8, "epochs": 1.0, "learning_rate": 5e-4}),
        (2_000, {"batch_rows": 8, "epochs": 1.0, "learning_rate": 5e-4}),
        (9_500, {"batch_rows": 16, "epochs": 1.0, "learning_rate": 5e-4}),
        (10**6, {"batch_rows": 32, "epochs": 1.0, "learning_rate": 5e-4}),
    ],
)
def test_passes_batch_and_rate_follow_the_rows(rows: int, expected: dict[str, float]) -> None:
    assert values(choose(size(rows), Recipe())) == {"rank": 16} | expected


@pytest.mark.parametrize(
    ("tokens", "rank"),
    [(100, 8), (618, 16), (16 * WIDTHS, 16), (16 * WIDTHS + 1, 32), (10_000_000, 64), (10**12, 256)],
)
def test_rank_follows_the_trained_tokens(tokens: int, rank: int) -> None:
    assert choose(size(1_000, tokens), Recipe())["rank"].value == rank


def test_replayed_rows_make_no_few_rows_many() -> None:
    sizes = [
        DataSize(rows=rows, replayed=1_000, trained_tokens=20_000, parameters_per_rank=WIDTHS)
        for rows in (2_599, 2_600)
    ]
    few, many = (values(choose(each, Recipe())) for each in sizes)
    assert (few["batch_rows"], few["epochs"]) == (4, 2)
    assert (many["batch_rows"], many["epochs"]) == (8, 1)


@pytest.mark.parametrize(("rows", "passes"), [(600, 1.0), (192, 1.0), (191, 1.0), (188, 2.0), (100, 2.0), (40, 3.0)])
def test_a_skill_that_is_known_takes_one_pass_where_that_is_enough_steps(rows: int, passes: float) -> None:
    known = DataSize(rows=rows, trained_tokens=20_000, parameters_per_rank=WIDTHS, is_known=True)
    assert values(choose(known, Recipe()))["epochs"] == passes


def test_the_defaults_are_the_middle() -> None:
    chosen = values(choose(size(2_000), Recipe()))
    assert Recipe(**chosen) == Recipe()


def test_reasons_name_their_numbers() -> None:
    assert {key: choice.reason for key, choice in choose(size(144, 618), Recipe()).items()} == {
        "rank": "618 trained tokens fit into 4,884,480 parameters",
        "batch_rows": "144 rows in 36 steps a pass",
        "epochs": "36 steps a pass, 72 steps in all: few rows take more passes",
        "learning_rate": "72 steps, a short run: 15 times a full fine-tuning's 5e-05",
    }
    assert choose(size(4), Recipe())["batch_rows"].reason == "4 rows in 1 step a pass"
    assert choose(size(9, 10**12), Recipe())["rank"].reason.startswith("1,000,000,000,000 trained tokens are more than")


def test_what_is_set_stays_and_counts() -> None:
    assert choose(size(608), Recipe(rank=4, batch_rows=2, epochs=1.0, learning_rate=1e-3)) == {}
    larger = choose(size(608), Recipe(batch_rows=64))
    assert set(larger) == KEYS - {"batch_rows"}
    assert larger["epochs"].value == 3.0  # 10 steps a pass
    longer = choose(size(608), Recipe(epochs=8.0))
    assert longer["learning_rate"].value == 5e-4  # 608 steps
    default = Recipe.model_validate({"rank": 16})
    assert "rank" not in choose(size(608, 100), default)  # a default that somebody typed is theirs


@given(size=sizes)
def test_choices_are_within_range_and_repeat(size: DataSize) -> None:
    chosen = choose(size, Recipe())
    assert set(chosen) == KEYS
    recipe = Recipe.model_validate(values(chosen))
    assert 8 <= recipe.rank <= 256
    assert 4 <= recipe.batch_rows <= 32
    assert 1 <= recipe.epochs <= 24
    assert 5e-4 <= recipe.learning_rate <= 7.5e-4
    assert choose(size, Recipe()) == chosen


@given(size=sizes, recipe=st.builds(Recipe, epochs=st.floats(0.01, 1000), batch_rows=st.integers(1, 10**6)))
def test_choices_beside_set_values_are_within_range(size: DataSize, recipe: Recipe) -> None:
    chosen = values(choose(size, recipe))
    assert set(chosen) == {"rank", "learning_rate"}
    Recipe.model_validate(chosen)


@given(rows=st.integers(1, 10**6), more=st.integers(0, 10**6))
def test_more_rows_never_mean_more_passes_smaller_batches_or_higher_rates(rows: int, more: int) -> None:
    few, many = (values(choose(size(count), Recipe())) for count in (rows, rows + more))
    assert few["epochs"] >= many["epochs"]
    assert few["batch_rows"] <= many["batch_rows"]
    assert few["learning_rate"] >= many["learning_rate"]


@given(tokens=st.integers(1, 10**9), more=st.integers(0, 10**9))
def test_more_tokens_never_mean_a_lower_rank(tokens: int, more: int) -> None:
    assert choose(size(100, tokens), Recipe())["rank"].value <= choose(size(100, tokens + more), Recipe())["rank"].value


@given(rows=st.integers(1, 3_000))
def test_there_are_two_dozen_steps_at_least(rows: int) -> None:
    chosen = values(choose(size(rows), Recipe()))
    steps = plan_steps(rows, batch_rows=int(chosen["batch_rows"]), epochs=chosen["epochs"], seed=0)
    assert len(steps) >= 24


def test_it_needs_no_torch() -> None:
    code = "import sys, lamina.train.choose; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
