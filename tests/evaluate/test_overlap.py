"""Overlap: whole rows by identity, runs of words, and what does not count."""

from __future__ import annotations

from lamina.data.identity import row_identity
from lamina.evaluate.overlap import find_overlap
from lamina.evaluate.suites import suite_of_rows
from lamina.records import Conversation, Message

STORY = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def row(question: str, answer: str = "yes") -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)))


def overlap(items: list[Conversation], rows: list[Conversation], identities: set[str] | None = None) -> tuple[int, int]:
    found = find_overlap(suite_of_rows("s", items, "exact"), rows, identities or set())
    return found.exact, found.ngram


def test_a_trained_row_is_found_by_identity_alone() -> None:
    assert overlap([row("a"), row("b")], [], {row_identity(row("b"))}) == (1, 0)
    assert overlap([row("a\r\n")], [row(" a")]) == (1, 0)


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not() -> None:
    words = STORY.split()
    assert overlap([row(f"Q: {STORY}!")], [row("and " + " ".join(words[:13]).upper(), "no")]) == (0, 1)
    assert overlap([row(f"Q: {STORY}!")], [row("and " + " ".join(words[:12]), "no")]) == (0, 0)


def test_short_items_take_eight_words_and_shorter_ones_only_themselves() -> None:
    assert overlap(
        [row("one two three four five six seven")], [row("one two three four five six seven", "yes sir")]
    ) == (
        0,
        1,
    )
    assert overlap([row("one two")], [row("one two", "yes sir")]) == (0, 0)


def test_words_that_all_items_share_are_their_frame() -> None:
    items = [row(f"{STORY}: {number}") for number in "abcdefgh"]
    assert overlap(items, [row(f"{STORY}: z")]) == (0, 0)


def test_it_says_what_it_could_not_see() -> None:
    found = find_overlap(suite_of_rows("s", [row("a")], "exact"), [row("b")], {row_identity(row("b")), "f" * 64})
    assert (found.rows, found.unseen) == (1, 1)
    assert found.describe().endswith("1 rows are known by identity only")
