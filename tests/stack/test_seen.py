"""The list of rows that a layer has seen, also as earlier versions wrote it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lamina.stack.seen import SeenRow, format_seen, parse_seen

HASH = st.text("0123456789abcdef", min_size=64, max_size=64)
ROWS = st.lists(
    st.builds(SeenRow, HASH, st.none() | HASH, st.none() | st.integers(0, 10**6), st.sampled_from([None, False, True])),
    unique_by=lambda seen: seen.row,
    max_size=8,
)


@given(ROWS, st.randoms())
def test_lists_round_trip_and_have_one_spelling(rows: list[SeenRow], draw: object) -> None:
    shuffled = list(rows)
    draw.shuffle(shuffled)
    assert format_seen(shuffled) == format_seen(rows)
    assert parse_seen(format_seen(rows)) == sorted(rows, key=lambda seen: seen.row)


@given(st.lists(HASH, unique=True, max_size=8))
def test_lists_of_earlier_versions_are_read(rows: list[str]) -> None:
    assert parse_seen("\n".join(sorted(rows)).encode()) == [SeenRow(row) for row in sorted(rows)]
