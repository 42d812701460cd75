"""A judge that is slow, broken, down or dies midway: nothing is lost, nothing is paid twice, everything is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lamina.config import JudgeSettings
from lamina.errors import StackError, UsageError
from lamina.evaluate.judge.asking import Question, Reply, ask_all
from lamina.evaluate.judge.endpoint import Endpoint, JudgeDownError, NoReplyError
from lamina.evaluate.judge.journal import open_journal
from lamina.records import Message

QUESTIONS = [Question(f"q {place}", (Message("user", f"question {place}"),)) for place in range(6)]


def settings(url: str, **more: Any) -> JudgeSettings:
    return JudgeSettings(url=url, **{"model": "m", "retries": 0, "timeout_s": 5.0} | more)


def ask(judge: JudgeSettings, path: Path, questions: list[Question] = QUESTIONS) -> list[Reply]:
    with open_journal(path) as journal:
        return ask_all(judge, Endpoint(judge, lambda _: None), journal, questions, lambda amount, detail="": None)


def content(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def test_a_good_judge_is_asked_once_for_each_question(
    judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMINA_JUDGE_KEY", "secret")
    judge.behave = content
    replies = ask(settings(judge.url), tmp_path / "j.jsonl")
    assert [reply.text for reply in replies] == [f"question {place}" for place in range(6)]
    assert all(reply.paid for reply in replies)
    assert judge.keys == ["Bearer secret"] * 6
    assert judge.seen[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "question 0"}],
        "temperature": 0,
        "max_tokens": 1024,
    }
    assert "secret" not in (tmp_path / "j.jsonl").read_text()
    again = ask(settings(judge.url), tmp_path / "j.jsonl")
    assert [reply.text for reply in again] == [reply.text for reply in replies]
    assert not any(reply.paid for reply in again)
    assert len(judge.seen) == 6


def test_other_words_another_model_and_another_address_are_asked_anew(judge: Any, tmp_path: Path) -> None:
    ask(settings(judge.url), tmp_path / "j.jsonl", QUESTIONS[:1])
    ask(settings(judge.url, model="n"), tmp_path / "j.jsonl", QUESTIONS[:1])
    ask(settings(f"{judge.url}/"), tmp_path / "j.jsonl", QUESTIONS[:1])
    assert len(judge.seen) == 3


def test_a_judge_that_dies_midway_is_taken_up_where_it_stopped(judge: Any, tmp_path: Path) -> None:
    judge.behave = lambda body: 500 if len(judge.seen) > 3 else content(body)
    with pytest.raises(JudgeDownError, match=r"3 questions in a row: q 5: HTTP 500: .*as told") as caught:
        ask(settings(judge.url), tmp_path / "j.jsonl")
    assert "3 of 6 verdicts are kept; run the command again" in caught.value.hint
    judge.behave = content
    judge.seen.clear()
    replies = ask(settings(judge.url), tmp_path / "j.jsonl")
    assert [reply.paid for reply in replies] == [False, False, False, True, True, True]
    assert [content(body) for body in judge.seen] == ["question 3", "question 4", "question 5"]


def test_a_journal_cut_short_by_a_crash_loses_one_reply(judge: Any, tmp_path: Path) -> None:
    judge.behave = content
    path = tmp_path / "j.jsonl"
    ask(settings(judge.url), path)
    path.write_bytes(path.read_bytes()[:-9])
    judge.seen.clear()
    replies = ask(settings(judge.url), path)
    assert [content(body) for body in judge.seen] == ["question 5"]
    assert [reply.text for reply in replies] == [f"question {place}" for place in range(6)]
    assert [json.loads(line)["about"] for line in path.read_text().splitlines()] == [f"q {place}" for place in range(6)]


def test_one_question_without_a_reply_does_not_stop_the_others(judge: Any, tmp_path: Path) -> None:
    judge.behave = lambda body: None if "2" in content(body) else content(body)
    replies = ask(settings(judge.url, timeout_s=0.2), tmp_path / "j.jsonl")
    assert [reply.text is None for reply in replies] == [False, False, True, False, False, False]
    assert replies[2].problem == "q 2: no reply within 0.2 s"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_passing_failures_are_tried_again_with_longer_waits(judge: Any, status: int) -> None:
    judge.behave = lambda body: status if len(judge.seen) < 4 else "done"
    waits: list[float] = []
    assert Endpoint(settings(judge.url, retries=3), waits.append).ask(QUESTIONS[0].messages) == "done"
    assert waits == [1.0, 2.0, 4.0]


def test_the_wait_that_the_judge_asks_for_is_kept(judge: Any) -> None:
    judge.behave = lambda body: 429 if len(judge.seen) < 2 else "done"
    judge.headers = {"Retry-After": "17"}
    waits: list[float] = []
    Endpoint(settings(judge.url, retries=1), waits.append).ask(QUESTIONS[0].messages)
    assert waits == [17.0]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"<html>", "something else than a chat completion: <html>"),
        (b'{"choices": []}', "something else than a chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', "without text"),
    ],
)
def test_replies_of_another_shape_are_no_replies(judge: Any, body: bytes, problem: str) -> None:
    judge.behave = lambda _: body
    with pytest.raises(NoReplyError, match=problem):
        Endpoint(settings(judge.url)).ask(QUESTIONS[0].messages)


@pytest.mark.parametrize(
    ("status", "problem"), [(401, "refuses the key"), (403, "refuses the key"), (404, "knows no 'm'")]
)
def test_refusals_stop_at_once(judge: Any, tmp_path: Path, status: int, problem: str) -> None:
    judge.behave = lambda _: status
    with pytest.raises(UsageError, match=problem):
        ask(settings(judge.url, retries=3), tmp_path / "j.jsonl")
    assert len(judge.seen) == 1


def test_a_request_that_it_cannot_take_is_not_sent_again(judge: Any, tmp_path: Path) -> None:
    judge.behave = lambda body: 400 if "2" in content(body) else content(body)
    replies = ask(settings(judge.url, retries=3), tmp_path / "j.jsonl")
    assert [reply.text is None for reply in replies] == [False, False, True, False, False, False]
    assert "HTTP 400" in replies[2].problem
    assert len(judge.seen) == 6


def test_a_judge_that_is_down_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(JudgeDownError, match=r"no judge answers at http://127\.0\.0\.1:9/v1") as caught:
        ask(settings("http://127.0.0.1:9/v1"), tmp_path / "j.jsonl")
    assert "ollama serve" in caught.value.hint
    assert "0 of 6 verdicts are kept" in caught.value.hint


def test_several_at_once_come_back_in_order(judge: Any, tmp_path: Path) -> None:
    judge.behave = content
    replies = ask(settings(judge.url, parallel=4), tmp_path / "j.jsonl")
    assert [reply.text for reply in replies] == [f"question {place}" for place in range(6)]


def test_two_at_one_journal_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with open_journal(path), pytest.raises(StackError, match="another `lamina judge`"), open_journal(path):
        pass


@pytest.mark.parametrize(
    ("more", "problem"), [({"model": None}, "no judge is named"), ({"url": "here"}, "no address|not an")]
)
def test_settings_that_name_no_judge(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Endpoint(settings(**{"url": "http://127.0.0.1:9/v1"} | more))
