"""What an update makes of files: laws over random files and histories, and the cases that have a name."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.data.changes import Changes, Seen, compare, superseded_rows
from lamina.data.identity import prompt_identity, row_identity
from lamina.records import Conversation, Message

# Few questions and few answers, so that rows repeat, change and contradict all the time.
ROWS = st.builds(lambda question, answer: row(f"q{question}", f"a{answer}"), st.integers(0, 4), st.integers(0, 2))
TEXTS = st.builds(lambda number: Conversation(text=f"text {number}"), st.integers(0, 2))
FILE = st.lists(ROWS | TEXTS, max_size=12)
PARTS = ("new", "changed", "known", "duplicates")


def row(question: str, answer: str, number: int = 0) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), file="f", row=number)


def train(past: list[Seen], rows: Sequence[Conversation], *, own: bool = True) -> list[Seen]:
    """Return what the stack has seen once a layer was trained on ``rows``."""
    height = max((one.height for one in past), default=-1) + 1
    seen = [
        Seen(row=row_identity(one), prompt=prompt_identity(one), height=height, layer=f"layer {height}", is_own=own)
        for one in rows
    ]
    return [*past, *seen]


def update(past: list[Seen], rows: Sequence[Conversation]) -> tuple[list[Seen], Changes]:
    changes = compare(rows, past)
    return (train(past, changes.to_train) if changes.to_train else past), changes


def grow(files: Sequence[Sequence[Conversation]], others: Sequence[Conversation] = ()) -> list[Seen]:
    past = train([], list({row_identity(one): one for one in others}.values()), own=False)
    for file in files:
        past, _ = update(past, file)
    return past


def identities(rows: Sequence[Conversation]) -> list[str]:
    return sorted(map(row_identity, rows))


@given(st.lists(FILE, max_size=4), FILE, FILE)
def test_every_row_is_in_exactly_one_part(
    past: list[list[Conversation]], other: list[Conversation], now: list[Conversation]
) -> None:
    changes = compare(now, grow(past, other))
    parts = [one for part in PARTS for one in getattr(changes, part)]
    assert sorted(map(id, parts)) == sorted(map(id, now))
    assert identities(changes.to_train) == identities([*changes.new, *changes.changed])
    assert len(set(identities(changes.to_train))) == len(changes.to_train)
    assert {id(one.row) for one in changes.contradictions} <= set(map(id, changes.new))


@given(st.lists(FILE, max_size=4), FILE, FILE)
def test_updating_twice_does_nothing(
    past: list[list[Conversation]], other: list[Conversation], now: list[Conversation]
) -> None:
    after, first = update(grow(past, other), now)
    _, second = update(after, now)
    assert second.to_train == ()
    assert second.removed == first.removed


@given(st.lists(FILE, max_size=4), FILE, FILE, st.randoms())
def test_the_order_of_rows_does_not_matter(
    past: list[list[Conversation]], other: list[Conversation], now: list[Conversation], draw: random.Random
) -> None:
    seen, shuffled = grow(past, other), list(now)
    draw.shuffle(shuffled)
    one, two = compare(now, seen), compare(shuffled, seen)
    assert one.counts() == two.counts()
    assert one.removed == two.removed
    for part in PARTS:
        assert identities(getattr(one, part)) == identities(getattr(two, part))


@given(st.lists(FILE, max_size=3), FILE, st.sampled_from(["\r\n", "\r", " ", "\n", "\t"]))
def test_how_a_row_is_written_does_not_matter(
    past: list[list[Conversation]], now: list[Conversation], space: str
) -> None:
    def rewrite(one: Conversation) -> Conversation:
        turns = tuple(Message(turn.role, f"{space}{turn.content}{space}") for turn in one.messages)
        return Conversation(turns, one.text and f"{space}{one.text}{space}", file="elsewhere", row=one.row + 7)

    seen = grow(past)
    assert compare(now, seen).counts() == compare(list(map(rewrite, now)), seen).counts()


@given(st.lists(FILE, max_size=5))
def test_old_answers_are_superseded_and_those_of_the_file_are_not(files: list[list[Conversation]]) -> None:
    """No old answer to a prompt of the file is rehearsed, unless it was only taken out, which is said."""
    past = grow(files)
    now = files[-1] if files else []
    answered = {prompt_identity(one) for one in now} - {None}
    replaced = superseded_rows(past)
    gone = {one.row for one in past if one.prompt in answered} - set(identities(now))
    assert gone <= replaced | set(compare(now, past).removed)
    if len({prompt_identity(one) for one in now}) == len(now):
        assert not replaced & set(identities(now))


def test_changed_and_back() -> None:
    past = grow([[row("q", "old"), row("other", "x")]])
    past, first = update(past, [row("q", "new"), row("other", "x")])
    assert first.counts() == {
        "new": 0, "changed": 1, "removed": 0, "duplicates": 0, "known": 1, "contradictions": 0
    }  # fmt: skip
    assert superseded_rows(past) == {row_identity(row("q", "old"))}
    past, back = update(past, [row("q", "old"), row("other", "x")])
    assert (len(back.changed), len(back.known)) == (1, 1)
    assert superseded_rows(past) == {row_identity(row("q", "new"))}


def test_a_second_answer_beside_the_first_is_new_and_contradicts() -> None:
    rows = [row("q", "first", 1), row("q", "second", 2)]
    past, changes = update(grow([rows[:1]]), rows)
    assert (changes.new, changes.changed, changes.known) == ((rows[1],), (), (rows[0],))
    (one,) = changes.contradictions
    assert (one.row.row, one.layer) == (2, "layer 0")
    assert update(past, rows)[1].to_train == ()


def test_removed_rows_stay_removed_until_they_are_forgotten() -> None:
    past = grow([[row("a", "1"), row("b", "2")]])
    for _ in range(2):
        past, changes = update(past, [row("a", "1")])
        assert changes.removed == (row_identity(row("b", "2")),)


def test_one_of_two_answers_taken_out_is_removed() -> None:
    rows = [row("q", "first"), row("q", "second")]
    changes = compare(rows[:1], grow([rows]))
    assert (changes.counts()["known"], changes.removed) == (1, (row_identity(rows[1]),))


def test_what_another_skill_has_seen_is_a_duplicate_and_never_removed() -> None:
    past = grow([], [row("a", "1"), row("b", "2")])
    changes = compare([row("a", "1"), row("b", "3")], past)
    assert (len(changes.duplicates), len(changes.new), changes.removed) == (1, 1, ())
    assert [one.layer for one in changes.contradictions] == ["layer 0"]


def test_rows_of_files_that_are_not_looked_at_are_neither_changed_nor_removed() -> None:
    elsewhere = [
        Seen(row=row_identity(one), prompt=prompt_identity(one), height=0, layer="l", is_from_files=False)
        for one in (row("a", "1"), row("b", "2"))
    ]
    changes = compare([row("a", "other")], elsewhere)
    assert (len(changes.new), len(changes.contradictions), changes.removed) == (1, 1, ())


@pytest.mark.parametrize("turns", [(), (Message("user", "a"),)])
def test_without_an_answer_there_is_no_prompt(turns: tuple[Message, ...]) -> None:
    assert prompt_identity(Conversation(turns, "" if turns else "text")) is None
