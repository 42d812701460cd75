"""``lamina blame``: leaving a layer out finds the one that made the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.data.render import Renderer
from lamina.infer.score import score_rows
from lamina.ops.project import open_project
from lamina.records import Conversation, Message, Quiet

TRAIN = ("--rank", "8", "--learning-rate", "0.005", "--epochs", "20", "--replay", "1", "--batch-rows", "8")


def teach(cli: Callable[..., Any], name: str, prompts: str, answer: str) -> None:
    rows = [{"prompt": f"{prompts} {number}?", "completion": answer} for number in range(12)]
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = cli("train", f"{name}.jsonl", "--as", name, *TRAIN)
    assert trained.code == 0, trained.err


@pytest.fixture
def taught(project: Path, cli: Callable[..., Any]) -> Path:
    """A stack of two layers, each with its own question and answer."""
    teach(cli, "fox", "who jumps", "the fox")
    teach(cli, "dog", "lazy lazy", "dog")
    return project


def test_the_layer_that_taught_an_answer_is_named(taught: Path, cli: Callable[..., Any]) -> None:
    found = cli("blame", "who jumps 3?", "--max-tokens", "12", "--json").json
    assert found["responsible"] == "fox"
    assert [out["name"] for out in found["layers"]] == ["fox", "dog"]
    assert found["layers"][0]["change"] < found["layers"][1]["change"]
    assert found["answer"] == found["own_answer"]
    assert found["answer"].startswith("the fox")
    assert found["layers"][0]["changed"]
    assert found["base"]["changed"]
    shown = cli("blame", "who jumps 3?", "--max-tokens", "12")
    assert "fox is most responsible" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert cli("blame", "lazy lazy 5?", "--max-tokens", "12", "--json").json["responsible"] == "dog"


def test_a_change_is_the_difference_of_two_stacks(taught: Path, cli: Callable[..., Any]) -> None:
    found = cli("blame", "who jumps 3?", "--answer", "the dog", "--json").json
    project = open_project(taught, Quiet())
    base = project.loaded
    messages = (Message("user", "who jumps 3?"), Message("assistant", "the dog"))
    row = Renderer(base.tokenizer, base.template).row(Conversation(messages), max_length=base.context)

    def log_prob(stack: str) -> float:
        project.activate(project.stack(stack), force=True)
        return sum(score_rows(base, [row])[0])

    without = {"fox": log_prob("base+dog"), "dog": log_prob("base+fox")}
    whole = log_prob("base+fox+dog")
    assert found["log_prob"] == pytest.approx(whole, rel=1e-4)
    for out in found["layers"]:
        assert out["change"] == pytest.approx(without[out["name"]] - whole, abs=1e-3 * abs(whole))
    assert found["base"]["log_prob"] == pytest.approx(log_prob("base"), rel=1e-4)
    assert found["tokens"] == row.trained_count
    assert found["own_answer"] != found["answer"] == "the dog"


def test_a_layer_of_scale_zero_is_nobodys_doing(taught: Path, cli: Callable[..., Any]) -> None:
    found = cli("blame", "who jumps 3?", "--stack", "base+fox+dog:0", "--max-tokens", "12", "--json").json
    (still,) = [out for out in found["layers"] if out["name"] == "dog"]
    assert (still["change"], still["changed"]) == (0.0, False)


def test_the_base_alone_has_nobody_to_blame(project: Path, cli: Callable[..., Any]) -> None:
    found = cli("blame", "hello", "--max-tokens", "4", "--json").json
    assert (found["layers"], found["responsible"], found["base"]["changed"]) == ([], None, False)
    assert "by itself" in cli("blame", "hello", "--max-tokens", "4").out


def test_an_answer_that_was_cut_off_is_scored_as_far_as_it_went(taught: Path, cli: Callable[..., Any]) -> None:
    short = cli("blame", "who jumps 3?", "--max-tokens", "2", "--json").json
    whole = cli("blame", "who jumps 3?", "--max-tokens", "12", "--json").json
    assert short["tokens"] == 2 < whole["tokens"]
    assert short["log_prob"] >= whole["log_prob"]


def test_a_prompt_beyond_the_context_is_refused(project: Path, cli: Callable[..., Any]) -> None:
    said = cli("blame", "hello " * 300)
    assert said.code == 1
    assert "leave no room in a context of 256" in said.err
    long = cli("blame", "hello", "--answer", "x" * 400)
    assert long.code == 1
    assert "too long for the context of 256" in long.err
