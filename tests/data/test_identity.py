"""Row identity, held-out rows, duplicates, and the token cache (law 11)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.data import cache
from lamina.data.identity import from_record, row_identity, to_record
from lamina.data.pack import pack_rows
from lamina.data.split import drop_duplicates, split_heldout
from lamina.records import Conversation, Message, TokenRow

ROWS = st.builds(
    Conversation,
    st.lists(
        st.builds(Message, st.sampled_from(["user", "assistant"]), st.text(max_size=8)), min_size=1, max_size=3
    ).map(tuple),
)


def row(text: str, **where: object) -> Conversation:
    return Conversation((Message("user", text), Message("assistant", "yes")), **where)


@given(ROWS)
def test_records_round_trip(conversation: Conversation) -> None:
    assert from_record(to_record(conversation)) == conversation
    assert row_identity(from_record(to_record(conversation))) == row_identity(conversation)


def test_identity_is_content() -> None:
    assert row_identity(row("café\r\n", file="a", row=1)) == row_identity(row(" café", file="b", row=9))
    distinct = [
        row("a"),
        row("A"),
        Conversation((Message("system", "a"), Message("assistant", "yes"))),
        Conversation((Message("user", "a\nassistant: yes"),)),
        Conversation(text="a"),
    ]
    assert len({row_identity(one) for one in distinct}) == len(distinct)


def test_duplicates_keep_the_first() -> None:
    kept, dropped = drop_duplicates([row("a", row=1), row("b", row=2), row(" a ", row=3)])
    assert ([one.row for one in kept], dropped) == ([1, 2], 1)


@given(st.integers(0, 5), st.integers(20, 120), st.floats(0, 0.5))
def test_a_row_keeps_its_side_when_the_file_grows(seed: int, count: int, share: float) -> None:
    rows = [row(f"question {number}") for number in range(count + 40)]
    train, heldout = split_heldout(rows[:count], share, seed)
    assert len(train) + len(heldout) == count
    more_train, more_heldout = split_heldout(rows, share, seed)
    assert set(map(row_identity, train)) <= set(map(row_identity, more_train))
    assert set(map(row_identity, heldout)) <= set(map(row_identity, more_heldout))


def test_few_rows_are_all_trained() -> None:
    assert split_heldout([row(str(number)) for number in range(19)], 0.5, 0)[1] == []


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 100))
def test_packs_hold_every_row_once_and_fit(lengths: list[int], budget: int) -> None:
    packs = pack_rows(lengths, budget)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    assert all(len(pack) == 1 or sum(lengths[index] for index in pack) <= budget for pack in packs)


def render(times: list[int]) -> list[TokenRow]:
    times.append(1)
    return [TokenRow((1, 2, 3), (False, True, True), "a", 1, 0), TokenRow((4, 5), (False, True), "a", 2, 0)]


def test_law_11_the_token_cache_is_keyed_on_all_that_makes_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, parts, times = [row("a", file="a", row=1), row("b", file="a", row=2)], ("tokenizer", "template", "512"), []
    first = cache.cached_rows(tmp_path, parts, rows, lambda: render(times))
    assert cache.cached_rows(tmp_path, parts, rows, lambda: render(times)) == first
    assert len(times) == 1
    for place, other in enumerate(("tokenizer 2", "template 2", "256")):
        changed = (*parts[:place], other, *parts[place + 1 :])
        cache.cached_rows(tmp_path, changed, rows, lambda: render(times))
    cache.cached_rows(tmp_path, parts, [rows[0], row("c")], lambda: render(times))
    assert len(times) == 5
    monkeypatch.setattr(cache.inspect, "getsource", lambda module: "the masking code, changed")
    cache.cached_rows(tmp_path, parts, rows, lambda: render(times))
    assert len(times) == 6


def test_a_damaged_cache_file_is_made_again(tmp_path: Path) -> None:
    rows, times = [row("a", file="a", row=1), row("b", file="a", row=2)], []
    first = cache.cached_rows(tmp_path, ("x",), rows, lambda: render(times))
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"half")
    assert cache.cached_rows(tmp_path, ("x",), rows, lambda: render(times)) == first
    assert len(times) == 2


def test_rows_that_were_cut_are_not_kept(tmp_path: Path) -> None:
    cut = [TokenRow((1, 2), (False, True), "a", 1, lost=3)]
    assert cache.cached_rows(tmp_path, ("x",), [row("a")], lambda: cut) == cut
    assert list(tmp_path.iterdir()) == []
