"""FastChat reviews: the published Vicuna chart to the digit, and what happens to rows that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import DataError, UsageError
from lamina.evaluate.relative import relative_quality, sum_pairs
from lamina.evaluate.reviews import Review, read_reviews

DATA = Path(__file__).parents[3] / "shared" / "data" / "vicuna_eval"
PUBLISHED = DATA / "review" / "vicuna-13b_20230322-clean-lang"


def row(question: int | str = 1, score: Any = (8, 9), **more: Any) -> dict[str, Any]:
    return {"question_id": question, "answer1_id": "x", "answer2_id": "y", "text": "8 9", "score": score} | more


def write(folder: Path, name: str, rows: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.shared
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data/vicuna_eval is not here")
class TestPublished:
    def test_chart(self) -> None:
        found = {each.name: each for each in relative_quality(read_reviews(PUBLISHED).reviews)}
        assert {name: round(each.percent) for name, each in found.items()} == {
            "llama-13b": 68,
            "alpaca-13b": 76,
            "vicuna-13b": 92,
            "bard": 93,
            "gpt-3.5-turbo": 100,
        }
        assert all(each.low <= each.percent <= each.high for each in found.values())
        assert found["llama-13b"].percent == pytest.approx(100 * 513 / 694 * 638 / 693)

    def test_sums_and_wins(self) -> None:
        read = read_reviews(PUBLISHED)
        assert read.bad == ()
        pairs = {pair.first: pair for pair in sum_pairs(read.reviews)}
        assert {name: (pair.first_sum, pair.second_sum) for name, pair in pairs.items()} == {
            "llama-13b": (513.0, 694.0),
            "alpaca-13b": (583.0, 704.0),
            "bard": (664.0, 655.5),
            "gpt-3.5-turbo": (693.0, 638.0),
        }
        # The blog's text: Vicuna is preferred to LLaMA and Alpaca in over 90 %, and no worse than ChatGPT in 45 %.
        assert {name: (pair.losses, pair.wins, pair.ties) for name, pair in pairs.items()} == {
            "llama-13b": (77, 3, 0),
            "alpaca-13b": (76, 3, 1),
            "bard": (40, 30, 10),
            "gpt-3.5-turbo": (14, 44, 22),
        }

    def test_all_folders_together_tell_versions_apart(self) -> None:
        read = read_reviews(DATA)
        assert len(read.reviews) == 13 * 80
        assert {"vicuna-13b:20230322-clean-lang", "vicuna-13b:20230322-new-hp-fp16", "vicuna-7b"} <= set(read.models)
        assert {round(each.percent) for each in relative_quality(read.reviews)} == {68, 76, 88, 92, 93, 100}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (row(score=None), "no score"),
        (row(score=[-1, -1]), "score is -1: the judge's reply could not be read"),
        (row(score=["8", "9"]), 'score is ["8", "9"]; expected two numbers'),
        (row(score=[8]), "score is [8]; expected two numbers"),
        (row(score=[True, 9]), "score is [true, 9]; expected two numbers"),
        (row(score=[8, 11]), "score is [8, 11]; expected 0 to 10"),
        ({"score": [8, 9]}, "no question_id"),
        ('{"question_id": 1, "score": [8, NaN]}', "score is [8, NaN]; expected two numbers"),
        ("{", "broken JSON"),
        ("[1, 2]", "not a JSON object"),
        (row(question=2), "question 2 is reviewed a second time"),
    ],
)
def test_bad_rows_are_named_and_do_not_count(tmp_path: Path, line: Any, problem: str) -> None:
    read = read_reviews(write(tmp_path, "review_a_b.jsonl", [row(question=2), line]))
    assert [str(bad) for bad in read.bad] == [f"review_a_b.jsonl, row 2: {problem}"]
    assert read.reviews == (Review("2", "a", "b", 8.0, 9.0),)


def test_missing_questions_are_named(tmp_path: Path) -> None:
    write(tmp_path, "question.jsonl", [{"question_id": number} for number in (1, 2, 10)])
    read = read_reviews(write(tmp_path, "review_a_b.jsonl", [row(question=1), row(question=2, score=None)]))
    assert [str(bad) for bad in read.bad] == [
        "review_a_b.jsonl, row 2: no score",
        "review_a_b.jsonl: question 10 is missing",
    ]


def test_a_score_of_zero_counts(tmp_path: Path) -> None:
    read = read_reviews(write(tmp_path, "review_a_b.jsonl", [row(score=[0, 9])]))
    assert (read.reviews[0].first_score, read.bad) == (0.0, ())


def test_models_are_named_by_their_answers(tmp_path: Path) -> None:
    write(tmp_path, "review_some_thing_b.jsonl", [row()])
    with pytest.raises(DataError, match="does not tell which two models"):
        read_reviews(tmp_path)
    write(tmp_path / "answer", "answer_some_thing.jsonl", [{"answer_id": "x", "model_id": "m:1"}])
    write(tmp_path / "answer", "answer_b.jsonl", [{"answer_id": "y", "model_id": "b:1"}])
    assert read_reviews(tmp_path).models == ("b:1", "m:1")
    write(tmp_path, "model.jsonl", [{"model_id": "m:1", "model_name": "m"}, {"model_id": "b:1", "model_name": "b"}])
    assert read_reviews(tmp_path).models == ("b", "m")
    write(tmp_path, "model.jsonl", [{"model_id": "m:1", "model_name": "m"}, {"model_id": "b:1", "model_name": "m"}])
    assert read_reviews(tmp_path).models == ("b:1", "m:1")


def test_folders_without_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no review_\*\.jsonl"):
        read_reviews(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        read_reviews(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"none of its 1 rows can be used; the first: .*no score"):
        read_reviews(write(tmp_path, "review_a_b.jsonl", [row(score=None)]))


def test_relative_quality_by_hand() -> None:
    reviews = [Review("1", "a", "b", 4, 8), Review("2", "a", "b", 2, 4), Review("1", "c", "b", 9, 6)]
    found = {each.name: each.percent for each in relative_quality(reviews)}
    assert found == pytest.approx({"a": 100 * 0.5 * 6 / 9, "b": 100 * 6 / 9, "c": 100.0})
    found = {each.name: each.percent for each in relative_quality(reviews, "b")}
    assert found == pytest.approx({"a": 50.0, "b": 100.0, "c": 150.0})


def test_several_ways_to_the_reference_count_by_their_geometric_mean() -> None:
    reviews = [Review("1", "a", "m", 1, 2), Review("1", "m", "r", 1, 1), Review("1", "a", "n", 2, 1)]
    reviews.append(Review("1", "n", "r", 1, 1))
    found = {each.name: each.percent for each in relative_quality(reviews, "r")}
    assert found["a"] == pytest.approx(100.0)  # sqrt(1/2 x 2)


def test_what_cannot_be_a_share_is_refused() -> None:
    apart = [Review("1", "a", "b", 1, 2), Review("1", "c", "d", 1, 2)]
    with pytest.raises(DataError, match="'c' was never compared with 'a'"):
        relative_quality(apart)
    with pytest.raises(DataError, match="sum to zero"):
        relative_quality([Review("1", "a", "b", 0, 2)])
    with pytest.raises(UsageError, match="no reviews of 'gpt'") as caught:
        relative_quality([Review("1", "a", "b", 1, 2)], "gpt")
    assert caught.value.hint == "reviewed here: a, b"


SCORES = st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(SCORES, st.sampled_from([0.1, 0.5]), st.randoms(use_true_random=False))
def test_neither_the_scale_nor_the_order_nor_the_side_matters(
    scores: list[tuple[int, int]], scale: float, shuffle: Any
) -> None:
    plain = [Review(str(place), "a", "b", left, right) for place, (left, right) in enumerate(scores)]
    turned = [
        Review(each.question, "b", "a", each.second_score * scale, each.first_score * scale)
        if shuffle.random() < 0.5
        else Review(each.question, "a", "b", each.first_score * scale, each.second_score * scale)
        for each in plain
    ]
    shuffle.shuffle(turned)
    one, other = relative_quality(plain, "a"), relative_quality(turned, "a")
    assert {e.name: e.percent for e in one} == pytest.approx({e.name: e.percent for e in other})
    (pair,) = sum_pairs(plain)
    assert pair.wins + pair.losses + pair.ties == len(scores)
