"""Layouts: every row finds its own tokens, what is shared is equal and untrained, and attention meets every token."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.model import rows as rows_module
from lamina.model.rows import Layout, lay_out, lay_out_tree
from lamina.records import TokenRow

CPU = torch.device("cpu")
drawn = settings(deadline=None, max_examples=100)


@st.composite
def chats(draw: st.DrawFn) -> list[TokenRow]:
    """Draw rows of which many open alike, with trained tokens anywhere but first."""
    opening = draw(st.lists(st.integers(0, 1), min_size=30, max_size=30))
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        ids = opening[: draw(st.integers(0, 30))] + draw(st.lists(st.integers(0, 3), min_size=2, max_size=12))
        trained = draw(st.sets(st.integers(1, len(ids) - 1), min_size=1))
        rows.append(TokenRow(tuple(ids), tuple(place in trained for place in range(len(ids)))))
    return rows


def first_trained(row: TokenRow) -> int:
    return row.trained.index(True)


def last_trained(row: TokenRow) -> int:
    return len(row.trained) - 1 - row.trained[::-1].index(True)


def owners(layout: Layout) -> list[list[int]]:
    """Return for every token of the pack the rows that it belongs to."""
    found: list[list[int]] = [[] for _ in layout.ids]
    for row, places in enumerate(layout.places):
        for place in places:
            found[place].append(row)
    return found


@drawn
@given(chats(), st.booleans())
def test_every_row_finds_its_tokens_up_to_the_last_that_predicts_a_trained_one(
    rows: list[TokenRow], share: bool
) -> None:
    layout = lay_out(rows, CPU, share=share)
    assert len(layout.places) == len(rows)
    for row, places in zip(rows, layout.places, strict=True):
        assert tuple(layout.ids[place] for place in places) == row.ids[: last_trained(row)]
        assert [layout.positions[place] for place in places] == list(range(last_trained(row)))
    assert all(owners(layout))  # no token belongs to nobody


@drawn
@given(chats())
def test_neither_a_trained_token_nor_the_one_that_predicts_the_first_is_shared(rows: list[TokenRow]) -> None:
    layout = lay_out(rows, CPU, share=True)
    for place, sharers in enumerate(owners(layout)):
        for row in sharers if len(sharers) > 1 else ():
            assert layout.positions[place] < first_trained(rows[row]) - 1


@drawn
@given(chats())
def test_a_shared_token_has_the_same_tokens_before_it_in_every_row(rows: list[TokenRow]) -> None:
    layout = lay_out(rows, CPU, share=True)
    for place, sharers in enumerate(owners(layout)):
        starts = {tuple(layout.places[row][: layout.positions[place] + 1]) for row in sharers}
        assert len(starts) == 1


@drawn
@given(chats(), st.booleans(), st.sampled_from([1, 200, 1 << 20]))
def test_every_token_looks_once_and_after_those_it_sees(rows: list[TokenRow], share: bool, scores: int) -> None:
    before = rows_module._BUCKET_SCORES
    rows_module._BUCKET_SCORES = scores
    try:
        layout = lay_out(rows, CPU, share=share)
    finally:
        rows_module._BUCKET_SCORES = before
    looked: set[int] = set()
    starts = {tuple(places) for places in layout.places}
    for bucket in layout.buckets:
        assert bucket.tokens.dtype == torch.int64
        assert bucket.looking > 0
        assert bucket.rows == 1 or bucket.rows * bucket.length**2 <= scores
        lines = [[token for token in line if token >= 0] for line in bucket.tokens.tolist()]
        assert max(map(len, lines)) == bucket.length
        for line, padded in zip(lines, bucket.tokens.tolist(), strict=True):
            assert padded == line + [-1] * (bucket.length - len(line))
            assert any(start[: len(line)] == tuple(line) for start in starts)
            assert line[: bucket.prefix] == lines[0][: bucket.prefix]
            assert looked.issuperset(line[: bucket.prefix])
            assert looked.isdisjoint(line[bucket.prefix :])
            assert line[bucket.prefix :]
            looked.update(line[bucket.prefix :])
    assert looked == set(range(len(layout.ids)))


@drawn
@given(chats())
def test_without_sharing_rows_lie_end_to_end_in_the_order_given(rows: list[TokenRow]) -> None:
    layout = lay_out(rows, CPU, share=False)
    assert [place for places in layout.places for place in places] == list(range(len(layout.ids)))
    assert layout.ids == [token for row in rows for token in row.ids[: last_trained(row)]]
    assert all(bucket.prefix == 0 for bucket in layout.buckets)


@drawn
@given(chats())
def test_a_pack_is_shorter_by_the_copies_it_shares(rows: list[TokenRow]) -> None:
    shared, whole = (lay_out(rows, CPU, share=share) for share in (True, False))
    saved = sum(len(sharers) - 1 for sharers in owners(shared))
    assert len(shared.ids) + saved == len(whole.ids)


def test_rows_that_open_alike_keep_one_copy() -> None:
    opening = tuple(range(20))
    rows = [TokenRow((*opening, 50 + end, 60, 61), (False,) * 21 + (True,) * 2) for end in range(3)]
    layout = lay_out(rows, CPU, share=True)
    assert layout.ids == [*opening, 50, 60, 51, 60, 52, 60]
    assert [bucket.prefix for bucket in layout.buckets] == [0, 20]
    assert [places[:20] for places in layout.places] == [list(range(20))] * 3


def test_short_common_starts_are_not_worth_sharing() -> None:
    rows = [TokenRow((1, 2, 3, 4, 5, 6, 7, end, 9, 9), (False,) * 9 + (True,)) for end in (100, 200)]
    assert len(lay_out(rows, CPU, share=True).ids) == 18


def test_a_group_is_closed_before_it_loses_most_of_what_it_shares() -> None:
    long, short = tuple(range(40)), (*range(10), *range(70, 100))
    rows = [TokenRow((*start, end, 60, 61), (False,) * 41 + (True,) * 2) for start in (long, short) for end in (50, 51)]
    layout = lay_out(rows, CPU, share=True)
    assert sorted(map(len, owners(layout))) == [1] * 8 + [2] * 80
    assert layout.places[0][:40] == layout.places[1][:40]
    assert layout.places[2][:40] == layout.places[3][:40]


def test_rows_of_like_length_are_padded_together_and_others_are_not() -> None:
    rows = [TokenRow(tuple(range(length + 1)), (False,) * length + (True,)) for length in (100, 40, 95, 39)]
    shapes = [tuple(bucket.tokens.shape) for bucket in lay_out(rows, CPU, share=False).buckets]
    assert shapes == [(2, 100), (2, 40)]


@drawn
@given(chats())
def test_a_tree_gives_every_row_its_tokens_behind_their_own_starts(rows: list[TokenRow]) -> None:
    layout = lay_out_tree(rows, CPU)
    looked: set[int] = set()
    for row, places in zip(rows, layout.places, strict=True):
        assert tuple(layout.ids[place] for place in places) == row.ids[: last_trained(row)]
        assert [layout.positions[place] for place in places] == list(range(last_trained(row)))
    starts = {tuple(places[:length]) for places in layout.places for length in range(len(places) + 1)}
    for bucket in layout.buckets:
        for padded in bucket.tokens.tolist():
            line = [token for token in padded if token >= 0]
            assert padded == line + [-1] * (bucket.length - len(line))
            assert tuple(line) in starts
            assert looked.issuperset(line[: bucket.prefix])
            assert looked.isdisjoint(line[bucket.prefix :])
            assert line[bucket.prefix :]
            looked.update(line[bucket.prefix :])
    assert looked == set(range(len(layout.ids)))


def test_a_tree_shares_what_is_scored_and_shares_at_several_depths() -> None:
    shown, asked, ends = tuple(range(20)), (tuple(range(30, 42)), tuple(range(50, 62))), ((1, 2), (1, 3))
    rows = [TokenRow((*shown, *own, *end, 9), (False,) * 32 + (True,) * 3) for own in asked for end in ends]
    layout = lay_out_tree(rows, CPU)
    assert len(layout.ids) == 20 + 2 * 13 + 4
    assert [(bucket.prefix, bucket.rows) for bucket in layout.buckets] == [(0, 1), (20, 2), (33, 4)]
    # Among three ends two share one token more: a segment of its own would cost more than it saves.
    near = [TokenRow((*shown, *end, 9), (False,) * 20 + (True,) * (len(end) + 1)) for end in ((1, 2), (1, 3), (4,))]
    assert len(lay_out_tree(near, CPU).ids) == 20 + 2 + 2 + 1
    twice = [rows[0], rows[0]]
    assert len(lay_out_tree(twice, CPU).ids) == 34
