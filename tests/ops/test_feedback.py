"""Votes and corrections: whole lines that other tools read, nothing twice, nothing of a person's own lost."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.data.read import read_rows
from lamina.errors import DataError
from lamina.ops.feedback import CORRECTIONS, VOTES, Answered, save_correction, save_vote
from lamina.records import Message
from lamina.stack.store import Store

ASKED = (Message("system", "be brief"), Message("user", "who?"))
SAID = Answered(model="main", digest="sha256:" + "a" * 64, text="an owl")
OTHER = Answered(model="base", digest="sha256:" + "b" * 64, text="a fox")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path)


def records(store: Store, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.project / name).read_text("utf-8").split("\n") if line]


def test_a_vote_is_preference_data(store: Store) -> None:
    assert save_vote(store, ASKED, SAID, OTHER, "model_b")
    assert not save_vote(store, ASKED, SAID, OTHER, "model_b")
    assert save_vote(store, ASKED, SAID, OTHER, "tie")
    vote, tie = records(store, VOTES)
    assert [turn["role"] for turn in vote["prompt"]] == ["system", "user"]
    assert vote["chosen"] == [{"role": "assistant", "content": "a fox"}]
    assert vote["rejected"] == [{"role": "assistant", "content": "an owl"}]
    assert (vote["model_a"], vote["model_b"], vote["winner"]) == ("main", "base", "model_b")
    assert (vote["stack_a"], vote["answer_a"]) == (SAID.digest, "an owl")
    assert (tie["chosen"], tie["rejected"], tie["winner"]) == (None, None, "tie")


def test_corrections_are_rows_that_training_reads(store: Store) -> None:
    assert save_correction(store, ASKED, " a heron ", SAID)
    (row,) = read_rows(store.project / CORRECTIONS).rows
    assert row.messages == (*ASKED, Message("assistant", "a heron"))


def test_nothing_is_written_twice_and_the_last_word_counts(store: Store) -> None:
    assert save_correction(store, ASKED, "a heron", SAID)
    assert not save_correction(store, ASKED, "a heron\r\n", OTHER)
    assert save_correction(store, ASKED, "a stork", SAID)
    assert [row["messages"][-1]["content"] for row in records(store, CORRECTIONS)] == ["a stork"]


def test_what_a_person_wrote_stays(store: Store) -> None:
    file = store.project / CORRECTIONS
    own = {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "who?"}]}
    own["messages"].append({"role": "assistant", "content": "by hand"})
    kept = [json.dumps(own).encode(), b"not even JSON", b'{"messages": 3}', b'{"text": "\xff"}']
    file.write_bytes(b"\n".join(kept))  # and no newline at the end
    assert save_correction(store, ASKED, "a heron", SAID)
    assert save_correction(store, ASKED, "a stork", SAID)
    lines = file.read_bytes().splitlines()
    assert lines[:-1] == kept
    assert json.loads(lines[-1])["messages"][-1]["content"] == "a stork"


@pytest.mark.parametrize("prompt", [(), (Message("assistant", "hm"),), (Message("system", "be brief"),)])
def test_feedback_without_a_question_is_refused(store: Store, prompt: tuple[Message, ...]) -> None:
    with pytest.raises(DataError, match="do not end with a question"):
        save_correction(store, prompt, "a heron", SAID)
    with pytest.raises(DataError, match="do not end with a question"):
        save_vote(store, prompt, SAID, OTHER, "tie")


def test_nothing_is_no_answer(store: Store) -> None:
    with pytest.raises(DataError, match="expected the answer that was wanted"):
        save_correction(store, ASKED, " \n", SAID)
    with pytest.raises(DataError, match="the answer of 'main' is empty"):
        save_vote(store, ASKED, Answered(model="main", digest=SAID.digest, text=" "), OTHER, "tie")
    assert not (store.project / VOTES).exists()


@settings(max_examples=50, deadline=None)
@given(
    wanted=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), max_size=6)
)
def test_every_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, wanted: list[str]) -> None:
    store = Store.create(tmp_path_factory.mktemp("any"))
    for place, text in enumerate(wanted):
        if text.strip():
            save_correction(store, [Message("user", f"{place}?")], text, SAID)
    told = [text.strip() for text in wanted if text.strip()]
    if told:
        rows = read_rows(store.project / CORRECTIONS).rows
        assert [row.messages[-1].content for row in rows] == told


def test_many_at_once_lose_nothing(store: Store) -> None:
    def save(number: int) -> None:
        save_correction(store, [Message("user", f"{number}?")], "yes", SAID)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {row["messages"][0]["content"] for row in records(store, CORRECTIONS)} == {f"{n}?" for n in range(12)}
