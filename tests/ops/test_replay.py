"""Replay: an equal share of tokens for each layer, what the model writes where rows are lost, and both again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.config import Recipe
from lamina.ops.project import Project, open_project
from lamina.ops.replay import render_replay, replay_rows
from lamina.ops.rows import TrainingData, prepare_rows, read_files
from lamina.ops.train import make_layer
from lamina.records import Quiet
from lamina.stack.layers import list_layers, read_layer, write_layer
from lamina.stack.store import Store

TRAIN = ("--rank", "4", "--learning-rate", "0.02", "--epochs", "1")
LONG = 12
RECIPE = Recipe(rank=4, batch_rows=8, learning_rate=2e-2, replay=0.5, anchors=0.0)


def write_rows(path: str, count: int, answer: str) -> None:
    rows = [{"prompt": f"{path[:3]} {number}?", "completion": f"{answer} {number % 7}"} for number in range(count)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def two(project: Path, cli: Callable[..., Any]) -> Project:
    """A project with a layer of short rows and one of long ones, and new rows in ``new.jsonl``."""
    for name, answer in (("short", "fox"), ("long", "the quick brown fox jumps over the lazy dog " * 2)):
        write_rows(f"{name}.jsonl", 60, answer)
        assert cli("train", f"{name}.jsonl", "--as", name, *TRAIN).code == 0
    write_rows("new.jsonl", 40, "dog")
    return open_project(project, Quiet())


def new_rows(project: Project) -> TrainingData:
    return prepare_rows(project, *read_files(project, [Path("new.jsonl")]), RECIPE)


def tokens(rows: Any) -> int:
    return sum(len(row.ids) for row in rows)


def lose(project: Project, name: str) -> None:
    (layer,) = [layer for _, layer in list_layers(project.store) if layer.name == name]
    assert layer.replay is not None
    project.store.blob_path(layer.replay).unlink()


def test_every_layer_gets_the_same_share_of_the_tokens(two: Project) -> None:
    data = new_rows(two)
    found = render_replay(two, two.stack(), data, RECIPE)
    long, short = ([row for row in found.rows if (row.trained_count > LONG) == side] for side in (True, False))
    share = RECIPE.replay * tokens(data.train_tokens) / 2
    assert tokens(short) == pytest.approx(share, rel=0.1)
    assert abs(tokens(long) - share) <= len(long[0].ids) / 2
    assert len(short) > len(long)
    assert {row.taught for row in found.rows} == {RECIPE.kl}
    assert (found.lost, found.cost.tokens) == ((), 0)


def test_rows_are_counted_as_before_where_a_recipe_says_so(two: Project) -> None:
    data = new_rows(two)
    old = RECIPE.model_copy(update={"replay_by": "rows", "kl": 0.0})
    found = render_replay(two, two.stack(), data, old)
    assert len(found.rows) == round(0.5 * len(data.train)) == len(replay_rows(two, two.stack(), len(found.rows)))
    assert {row.taught for row in found.rows} == {0.0}
    nothing = Recipe.recorded({"rank": 4, "replay": 0.5})
    assert render_replay(two, two.stack(), data, nothing).rows == found.rows


def test_the_bare_base_writes_the_anchors_once(two: Project) -> None:
    data = new_rows(two)
    recipe = RECIPE.model_copy(update={"replay": 0.0, "anchors": 0.5, "seed": 3})
    first = render_replay(two, two.stack(), data, recipe)
    assert {row.taught for row in first.rows} == {1.0}
    longest = max(len(row.ids) for row in first.rows)
    assert abs(tokens(first.rows) - 0.5 * tokens(data.train_tokens)) <= longest
    assert first.cost.tokens > 0
    again = render_replay(two, two.stack().prefix(1), data, recipe)
    assert again.rows == first.rows
    assert again.cost.tokens == 0
    for file in (two.store.root / "cache").glob("written-*"):
        file.unlink()
    assert render_replay(two, two.stack(), data, recipe).rows == first.rows
    other = render_replay(two, two.stack(), data, recipe.model_copy(update={"seed": 1}))
    assert other.rows != first.rows


def test_the_stack_stands_in_for_rows_that_are_not_here(two: Project) -> None:
    data = new_rows(two)
    whole = render_replay(two, two.stack(), data, RECIPE)
    lose(two, "long")
    found = render_replay(two, two.stack(), data, RECIPE)
    assert found.lost == ("long",)
    kept = [row for row in found.rows if row.taught == RECIPE.kl]
    assert kept == [row for row in whole.rows if row.trained_count <= LONG]
    written = [row for row in found.rows if row.taught == 1.0]
    assert tokens(written) == pytest.approx(RECIPE.replay * tokens(data.train_tokens) / 2, rel=0.5)
    assert found.cost.tokens >= tokens(written) / 2
    assert render_replay(two, two.stack(), data, RECIPE, lost=()).lost == ()


def test_a_layer_records_what_stood_in_and_is_reproduced(two: Project, cli: Callable[..., Any]) -> None:
    lose(two, "long")
    assert cli("train", "new.jsonl", "--as", "new", *TRAIN, "--replay", "0.5").code == 0
    layer = next(layer for _, layer in list_layers(two.store) if layer.name == "new")
    assert layer.stood_in == ("long",)
    assert layer.mixed_in == pytest.approx(0.5, rel=0.3)
    assert read_layer(two.store, two.stack().layers[0].layer).mixed_in == 0
    assert cli("reproduce", "new", "--json").json["outcome"] == "identical"


def test_a_layer_of_an_older_lamina_is_reproduced(two: Project, cli: Callable[..., Any]) -> None:
    old = Recipe.recorded({"rank": 4, "batch_rows": 8, "learning_rate": 2e-2, "replay": 0.5})
    made = make_layer(two, new_rows(two), name="old", recipe=old, origins={}, parent=two.stack())
    layer = read_layer(two.store, made.layer)
    since = ("replay_by", "anchors", "kl", "start", "scale")
    assert set(since) <= set(layer.recipe)
    record = {key: value for key, value in layer.recipe.items() if key not in since}
    assert "stood_in" not in layer.model_dump()
    aged = write_layer(Store.find(two.store.project), layer.model_copy(update={"recipe": record, "name": "aged"}))
    found = cli("reproduce", aged[7:19], "--json")
    assert (found.code, found.json["outcome"]) == (0, "identical")


def test_the_same_run_is_found_again_with_its_scale(two: Project) -> None:
    data = new_rows(two)
    first = make_layer(two, data, name="new", recipe=RECIPE, origins={}, parent=two.stack())
    count = len(list(list_layers(two.store)))
    assert make_layer(two, data, name="new", recipe=RECIPE, origins={}, parent=two.stack()) == first
    assert len(list(list_layers(two.store))) == count
