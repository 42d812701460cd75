"""``lamina chart --reviews``: needs no project, names what it leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data" / "vicuna_eval"


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    scores = [[4, 8], [6, 6], [-1, -1], [5, 6]]
    rows = [{"question_id": place, "score": score} for place, score in enumerate(scores)]
    (tmp_path / "review_a_b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_chart_and_figures(reviews: Path, cli: Callable[..., Any]) -> None:
    said = cli("chart", "--reviews", str(reviews), "--out", str(reviews / "out"), "--json")
    assert said.code == 0, said.err
    assert said.json["relative"] == {"a": 75, "b": 100}
    assert said.json["sums"] == {"a / b": [15.0, 20.0]}
    assert (said.json["bad"], said.json["reviews"]) == (1, 3)
    assert said.json["ratings"][0]["high"] is None or said.json["ratings"][0]["name"] == "b"
    assert "review_a_b.jsonl, row 3: score is -1" in said.err
    assert sorted(path.name for path in (reviews / "out").iterdir()) == ["reviews.png", "reviews.svg"]


def test_tables_and_the_reference(reviews: Path, cli: Callable[..., Any]) -> None:
    said = cli("chart", "--reviews", str(reviews), "--out", str(reviews / "out"), "--reference", "a")
    assert "relative quality, a = 100 %" in said.out
    assert "133 %" in said.out
    assert "0 wins, 2 losses, 1 ties" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_mistakes(reviews: Path, cli: Callable[..., Any]) -> None:
    assert cli("chart", "--reviews", str(reviews / "none"), "--json").code == 1
    assert cli("chart", "--reviews", str(reviews), "--reference", "c", "--json").json["error"] == "no reviews of 'c'"
    assert cli("chart", "main", "--reviews", str(reviews)).code == 2
    assert cli("chart", "--reference", "a").code == 2


@pytest.mark.shared
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data/vicuna_eval is not here")
def test_the_published_chart(tmp_path: Path, cli: Callable[..., Any]) -> None:
    folder = DATA / "review" / "vicuna-13b_20230322-clean-lang"
    said = cli("chart", "--reviews", str(folder), "--out", str(tmp_path), "--json")
    published = {"llama-13b": 68, "alpaca-13b": 76, "vicuna-13b": 92, "bard": 93, "gpt-3.5-turbo": 100}
    assert (said.json["relative"], said.json["bad"]) == (published, 0)
