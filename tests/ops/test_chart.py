"""``lamina chart`` of a stack: every picture from recorded results, costs by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.ops.costs import count_parameters, point_of, thin_part
from lamina.ops.project import open_project
from lamina.records import Quiet, Score
from lamina.stack.layers import read_layer, stack_digest, write_layer
from lamina.stack.manifest import StackConfig

SCORE = Score(suite="s", mean=0.5, low=0.4, high=0.6, n=10, items_digest="d", values=(0.5,) * 10)


def test_costs_by_hand(project: Path, grow: Callable[..., StackConfig]) -> None:
    grow("a")
    stack = grow("b", seconds=3600.0)
    opened = open_project(project, Quiet())
    base = count_parameters(opened.base.folder)
    layer = 2 * (4 * 32 + 64 * 4)  # two maps, 32 to 64, rank 4
    found = point_of(opened, "+b", stack, [SCORE, SCORE])
    assert found is not None
    assert (found.tokens, found.parameters, found.score) == (2000, 2 * layer, 0.5)
    assert found.flops == 1000 * (4 * base + 6 * layer) + 1000 * (4 * base + 4 * layer + 6 * layer)
    assert found.money == pytest.approx(0.25 * 0.045 * (1 + 60 / 3600))
    assert found.high - found.score == pytest.approx(0.1 / 2**0.5)
    bare = point_of(opened, "base", stack.model_copy(update={"layers": ()}), [SCORE])
    assert bare is not None
    assert (bare.tokens, bare.flops, bare.money, bare.parameters) == (0, 0.0, 0.0, 0)


def test_what_the_parent_reads_costs_a_look(project: Path, grow: Callable[..., StackConfig]) -> None:
    opened = open_project(project, Quiet())
    stack = grow("a")
    taught = {"mixed_in": 1.0, "recipe": {"epochs": 2.0, "kl": 0.5}}

    def flops(**changed: Any) -> float:
        config = read_layer(opened.store, stack.layers[0].layer).model_copy(update=taught | changed)
        entry = stack.layers[0].model_copy(update={"layer": write_layer(opened.store, config)})
        found = point_of(opened, "+a", stack.model_copy(update={"layers": (entry,)}), [SCORE])
        assert found is not None
        return found.flops

    base = count_parameters(opened.base.folder)
    unread = flops(recipe={"epochs": 2.0, "kl": 0.0})
    assert flops() - unread == 2 * base * 250  # half of 1,000 tokens in two passes, read once
    assert flops(mixed_in=None) == unread


def test_frozen_layers_cost_only_while_they_are_thin(project: Path) -> None:
    pin = open_project(project, Quiet()).base.pin
    assert [thin_part(pin, 1000, below) for below in (0, 100, 101, 5000)] == [0, 100, 0, 0]
    assert thin_part(pin.model_copy(update={"quantise": "int8"}), 1000, 5000) == 5000


def test_parameters_of_the_base(project: Path) -> None:
    opened = open_project(project, Quiet())
    counted = sum(each.numel() for each in opened.loaded.model.parameters())  # tied: the head is the embedding
    assert count_parameters(opened.base.folder) == counted


def test_a_squash_costs_what_its_layers_cost(project: Path, cli: Callable[..., Any], grow: Callable[..., Any]) -> None:
    grow("a")
    stack = grow("b")
    opened = open_project(project, Quiet())
    apart = point_of(opened, "+b", stack, [SCORE])
    assert cli("squash").code == 0
    together = point_of(opened, "squashed", opened.stack(), [SCORE])
    assert apart is not None
    assert together is not None
    assert (together.tokens, together.money) == (apart.tokens, apart.money) == (2000, apart.money)
    opened.store.blob_path(stack.layers[0].layer).unlink()  # then its own record stands for what is gone
    assert point_of(opened, "squashed", opened.stack(), [SCORE]).tokens == 2000


def test_all_charts_are_written(project: Path, cli: Callable[..., Any], grow: Callable[..., StackConfig]) -> None:
    rows = [{"question": f"say {word}", "answer": word} for word in ("fox", "dog", "quick")]
    (project / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (project / "lamina.toml").open("a") as config:
        config.write('\n[suites.s]\nfile = "s.jsonl"\nscorer = "likelihood"\n')
    judged = project / ".lamina" / "results" / "judge"
    judged.mkdir(parents=True)
    top = grow("a")
    graded = [stack_digest(top), stack_digest(top.prefix(0))]
    record = {"what": "s", "judge": "j", "stacks": ["main", "base"], "digests": graded, "grades": [["s 1", 8.0, 4.0]]}
    (judged / "grades-x.json").write_text(json.dumps(record))
    # Of a stack that the branch no longer holds, under the same name: no part of the chart.
    gone = record | {"digests": [graded[1], "sha256:" + "0" * 64], "grades": [["s 1", 1.0, 9.0]]}
    (judged / "grades-y.json").write_text(json.dumps(gone))
    said = cli("chart", "--json")
    assert said.code == 0, said.err
    names = [Path(each).name for each in said.json["charts"]]
    assert names == ["scores.png", "quality.png", "cost.png", "cost-staircase.png", "judged.png"]
    assert all((project / each).exists() for each in said.json["charts"])
    page = (project / said.json["report"]).read_text()
    assert "main 100 %" in page
    assert "operations, 1,000 tokens" in page
