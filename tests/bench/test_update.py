"""The whole update benchmark on a tiny model: every part gives its figures, and nothing is done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import runs
import tuning
import update
import workshop
from figures import Terms, backward, change, estimate, transfer_of
from stream import SKILLS, Cut
from summary import summarise
from tables import headline, layers, matrices, stairs
from workshop import STAGES, Plan, Workshop, open_workshop

from lamina.config import BaseSettings, Recipe
from lamina.records import Matrix, Quiet, Score

SHARED = Path(__file__).parents[3] / "shared" / "data"
PLAN = Plan(
    name="tiny",
    cut=Cut(rows=20, dev=2, test=2, labels=5),
    guards=2,
    svamp=3,
    seeds=(0, 1),
    orders=2,
    sequential_rates=(0.5, 1.0),
    joint_rates=(0.5, 1.0),
    points=(6, 7),
    planted=2,
)

GATE = {
    name: value
    for key, rate in (("gate_false_accept", 0.0), ("gate_false_reject", 0.1))
    for name, value in ((key, rate), (f"{key}_of", 10), (f"{key}_interval", [0.0, 0.3]))
}


@pytest.fixture
def opened(
    tmp_path: Path, base_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[Workshop]]:
    base = tmp_path / "base"
    shutil.copytree(base_folders["llama"], base)
    config = json.loads((base / "config.json").read_text())
    # The tiny tokenizer makes a token of every byte.
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    settings = BaseSettings(model=str(base))
    # What a run is made of matters here, not what it learns.
    monkeypatch.setattr(Workshop, "recipe", property(lambda shop: Recipe(seed=shop.seed, epochs=0.1, rank=2)))
    monkeypatch.setattr(workshop, "SCORING", {name: (scorer, 2) for name, (scorer, _) in workshop.SCORING.items()})
    return lambda: [open_workshop(PLAN, seed, SHARED, tmp_path / "work", Quiet(), settings) for seed in PLAN.seeds]


@pytest.mark.shared
def test_all_parts(opened: Callable[[], list[Workshop]], monkeypatch: pytest.MonkeyPatch) -> None:
    shops = opened()
    said: list[str] = []
    update.run(update.steps_of(shops, ["lamina"]), said.append)
    alone = summarise(shops, None)
    assert alone["acc_joint"] is None
    assert alone["update_cost_share"] is None
    assert len(alone["acc_final"]["seeds"]) == 2
    update.run(update.steps_of(shops, list(update.PARTS)), said.append)
    figures = summarise(shops, GATE)
    assert all(figures[key] is not None for key in (*figures, "acc_final_minus_joint", "svamp"))
    assert [each["stage"] for each in figures["update_cost_share"]["updates"][:2]] == ["tools.2", "classification.2"]
    assert [len(matrix["stacks"]) for matrix in figures["matrices"]["sequential"]] == [8, 8]
    assert len(figures["layers"][1]) == len(STAGES)
    assert {suite["suite"] for suite in figures["layers"][0][-1]["verdict"]["suites"]} >= {*SKILLS, "piqa"}
    assert json.loads(json.dumps(figures))["seeds"] == [0, 1]
    assert all(table(figures).count("\n") > 5 for table in (headline, matrices, layers, stairs))
    assert said[0].startswith("[1/16] seed 0: lamina +dialogue")
    held = [shops[0].held(name) for name in ("lamina", *map(runs.order_branch, runs.ORDERS[:2]))]
    grown, first, second = (() if stack is None else stack.layers for stack in held)
    assert [entry.layer for entry in grown[:4]] == [entry.layer for entry in first]
    assert [entry.name for entry in second] == ["classification", "tools", "reasoning", "dialogue"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("done before")

    for module in (tuning, runs):
        for name in ("run_training", "make_layer", "train_layer", "update"):
            monkeypatch.setattr(module, name, refuse, raising=False)
    monkeypatch.setattr("lamina.ops.evaluate.run_suite", refuse)
    again = opened()
    update.run(update.steps_of(again, list(update.PARTS)), said.append)
    assert summarise(again, GATE) == figures


def _score(suite: str, values: list[float]) -> Score:
    mean = sum(values) / len(values)
    return Score(suite=suite, mean=mean, low=0, high=1, n=len(values), items_digest="", values=tuple(values))


def _matrix(*rows: tuple[str, list[float], list[float]]) -> Matrix:
    names = ("a", "b")
    scores = tuple((_score("a", one), _score("b", two)) for _, one, two in rows)
    return Matrix(tuple(label for label, *_ in rows), names, scores)


MATRIX = _matrix(
    ("base", [0, 0, 0, 0], [0, 0, 0, 0]),
    ("+a", [1, 1, 0, 0], [0, 0, 0, 1]),
    ("+b", [1, 0, 0, 0], [1, 1, 1, 0]),
    ("+a.2", [1, 1, 1, 1], [1, 0, 1, 0]),
)


def test_backward_transfer_by_terms_is_that_of_the_product() -> None:
    assert estimate([backward(MATRIX, own=True)]).value == pytest.approx(transfer_of(MATRIX)["backward"])
    # a: -1/4 by b, and its own update's +3/4 does not count; b: -1/4 by a's update.
    assert estimate([backward(MATRIX, own=False)]).value == pytest.approx(-0.25)
    assert transfer_of(MATRIX, 2)["backward"] == pytest.approx(-0.25)


def test_errors_are_paired_by_item_and_grow_with_the_spread_of_seeds() -> None:
    same: Terms = [(1.0, _score("a", [1, 0, 1, 0])), (-1.0, _score("a", [1, 0, 1, 0]))]
    assert estimate([same]).error == 0
    one = estimate([change(MATRIX, ("a",))])
    assert (one.value, one.error) == (1.0, 0.0)
    apart = estimate([[(1.0, _score("a", [0.2] * 4))], [(1.0, _score("a", [0.4] * 4))]])
    assert apart.value == pytest.approx(0.3)
    assert apart.error == pytest.approx(0.1)
    halves = estimate([[(0.5, _score("a", [0, 1])), (0.5, _score("b", [0, 1]))]])
    assert halves.error == pytest.approx((2 * 0.25 * 0.25) ** 0.5)
    unscored = estimate([[(1.0, _score("a", [1, float("nan"), 0]))]])
    assert unscored.value == 0.5
