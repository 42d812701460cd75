"""``lamina judge`` from the command line, with a judge on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.stack.manifest import StackConfig


def settle(project: Path, url: str, **more: Any) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in ({"url": url, "model": "m", "retries": 0} | more).items()]
    config = project / "lamina.toml"
    text = config.read_text().partition("\n[judge]")[0]
    config.write_text("\n".join([text, "[judge]", *lines, ""]))


@pytest.fixture
def questions(project: Path) -> Path:
    rows = [{"question": f"say {word}", "answer": word} for word in ("fox", "dog", "quick")]
    path = project / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ARGUMENTS = ("questions.jsonl", "--stacks", "base", "main", "--max-tokens", "4", "--json")


def test_two_stacks_are_compared(
    project: Path, cli: Callable[..., Any], grow: Callable[..., StackConfig], judge: Any, questions: Path
) -> None:
    grow("tone")
    settle(project, judge.url)
    judge.behave = lambda body: "hm. [[A]]" if "say dog" not in str(body) else "I like both."
    said = cli("judge", *ARGUMENTS)
    assert said.code == 0, said.err
    assert (said.json["wins"], said.json["ties"], said.json["losses"], said.json["unjudged"]) == (0, 2, 0, 1)
    assert said.json["position_bias"]["value"] == pytest.approx(1.0)
    assert said.json["agreement"]["value"] == 0.0
    assert (said.json["asked"], said.json["kept"]) == (6, 0)
    assert "questions 2 (a first): no verdict in the reply: 'I like both.'" in said.err
    again = cli("judge", *ARGUMENTS)
    assert (again.json["asked"], again.json["kept"]) == (0, 6)
    assert again.json["wins"] == 0
    assert len(judge.seen) == 6
    shown = cli("judge", *ARGUMENTS[:-1]).out
    assert "0 wins, 2 ties, 0 losses, 1 without a verdict" in shown
    assert "win rate            50.0 %  [" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_run_cut_off_goes_on(
    project: Path, cli: Callable[..., Any], grow: Callable[..., StackConfig], judge: Any, questions: Path
) -> None:
    grow("tone")
    settle(project, judge.url)
    judge.behave = lambda body: 503 if len(judge.seen) > 2 else "[[C]]"
    said = cli("judge", *ARGUMENTS)
    assert said.code == 1
    assert "2 of 6 verdicts are kept; run the command again to go on" in said.json["hint"]
    judge.behave = lambda body: "[[C]]"
    said = cli("judge", *ARGUMENTS)
    assert (said.json["asked"], said.json["kept"], said.json["ties"]) == (4, 2, 3)


def test_answers_are_graded_one_by_one(
    project: Path, cli: Callable[..., Any], grow: Callable[..., StackConfig], judge: Any, questions: Path
) -> None:
    grow("tone")
    settle(project, judge.url)
    judge.behave = lambda body: "Rating: [[8]]"
    said = cli("judge", *ARGUMENTS, "--single")
    assert (said.json["wins"], said.json["ties"], said.json["losses"]) == (0, 3, 0)
    assert [mean["value"] for mean in said.json["means"]] == pytest.approx([8.0, 8.0])
    assert [each["percent"] for each in said.json["quality"]] == [100.0, 100.0]
    assert "100 %" in cli("judge", *ARGUMENTS[:-1], "--single").out


def test_two_turns_are_answered_and_judged_in_turn(
    project: Path, cli: Callable[..., Any], grow: Callable[..., StackConfig], judge: Any
) -> None:
    grow("tone")
    settle(project, judge.url)
    rows = [{"question_id": 81, "category": "x", "turns": ["say fox", "and dog"], "reference": ["fox", "dog"]}]
    (project / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = cli("judge", *ARGUMENTS)
    assert said.code == 0, said.err
    assert len(judge.seen) == 4
    asked = [body["messages"][1]["content"] for body in judge.seen]
    assert ["user: and dog" in text for text in asked] == [False, False, True, True]
    assert ["answer >>>\ndog" in text for text in asked] == [False, False, True, True]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            [{"question_id": 1, "text": "a"}, {"question_id": 1, "text": "b"}],
            "row 2: question 1 is there a second time",
        ),
        ([{"question_id": 1, "turns": []}], "row 1: expected `turns`"),
        ([{"question_id": 1, "text": "a"}, {"text": "b"}], "row 2: no question_id"),
        ([{"question_id": 1, "text": "a", "reference": "r"}], "row 1: reference is not a list"),
    ],
)
def test_bad_questions_are_named(
    project: Path, cli: Callable[..., Any], judge: Any, rows: list[dict[str, Any]], problem: str
) -> None:
    settle(project, judge.url)
    (project / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = cli("judge", *ARGUMENTS)
    assert said.code == 1
    assert problem in said.json["error"]


def test_what_does_not_fit_is_named(project: Path, cli: Callable[..., Any], judge: Any) -> None:
    settle(project, judge.url)
    rows = [{"question_id": 1, "text": "fox " * 300}, {"question_id": 2, "text": "dog"}]
    (project / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = cli("judge", *ARGUMENTS)
    assert (said.json["too_long"], said.json["ties"]) == (["question 1"], 1)
    assert "left out: question 1" in said.err
    (project / "questions.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert "none of 1 questions fits into 256 tokens" in cli("judge", *ARGUMENTS).json["error"]


def test_mistakes_in_the_command(project: Path, cli: Callable[..., Any], judge: Any, questions: Path) -> None:
    assert "no judge is named" in cli("judge", *ARGUMENTS).json["error"]
    settle(project, judge.url)
    said = cli("judge", "nothing", *ARGUMENTS[1:])
    assert (said.code, said.json["error"]) == (2, "'nothing' is neither a suite nor a file")
    assert cli("judge", "questions.jsonl", "--stacks", "base", "nowhere", "--json").code == 1
    settle(project, "http://127.0.0.1:9/v1")
    said = cli("judge", *ARGUMENTS)
    assert (said.code, said.json["error"]) == (1, "no judge answers at http://127.0.0.1:9/v1")


@pytest.fixture
def judged_suite(project: Path, questions: Path) -> Path:
    config = project / "lamina.toml"
    table = '[suites.talk]\nfile = "questions.jsonl"\nscorer = "judged"\nmax_tokens = 4\n'
    config.write_text(f"{config.read_text()}\n{table}")
    return project


def test_a_suite_is_judged_against_its_references_once(
    judged_suite: Path, cli: Callable[..., Any], grow: Callable[..., StackConfig], judge: Any
) -> None:
    settle(judged_suite, judge.url)

    def prefer(body: Any) -> str:
        shown = str(body)
        if "say dog" in shown:
            return "[[C]]"
        if "say quick" in shown:
            return "prose without a verdict"
        # The reference is B when the answer is shown first.
        return "[[A]]" if "start of answer B >>>\nfox\n" in body["messages"][1]["content"] else "[[B]]"

    judge.behave = prefer
    said = cli("eval", "--json")
    assert said.code == 0, said.err
    assert said.json["scores"] == [[0.75]]
    assert said.json["items"] == [[2]]
    assert said.json["unscored"] == [[1]]
    assert "no verdict in the reply: 'prose without a verdict'" in said.err
    assert len(judge.seen) == 6
    assert cli("eval", "--json").json["scores"] == [[0.75]]
    assert len(judge.seen) == 6, "a judged score is remembered"
    settle(judged_suite, judge.url, model="other")
    judge.behave = lambda body: "[[C]]"
    assert cli("eval", "--json").json["scores"] == [[0.5]], "another judge is another score"


def test_a_judged_suite_needs_a_judge_that_answers(judged_suite: Path, cli: Callable[..., Any], judge: Any) -> None:
    said = cli("eval")
    assert said.code == 2
    assert "[judge]" in said.err
    settle(judged_suite, judge.url)
    judge.behave = lambda body: "no idea"
    said = cli("eval")
    assert said.code == 1
    assert "or without a verdict" in said.err
    judge.behave = lambda body: 503
    settle(judged_suite, judge.url, model="down")
    assert "run the command again to go on" in cli("eval", "--json").json["hint"]
