"""How rows are laid out for one pass: what they share once, and rows of like length together for attention.

Chat data repeats itself: every row of a data set opens with the same system prompt, every choice of an item with the
same question. Tokens in front of which all is equal have equal hidden states, so rows that start alike keep one copy
of their common start. Nothing that is trained is ever shared, and a row still sees only what it would see alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

import torch

from lamina.kernels.shapes import Places
from lamina.records import TokenRow

__all__ = ["Layout", "lay_out", "lay_out_tree"]

_LEAST_SHARED = 8
# A further segment costs a bucket of its own in every block, about as much as so many tokens do.
_LEAST_SAVED = 8
_LIKE = 0.88
_BUCKET_SCORES = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of some rows stand in a pack.

    Attributes:
        ids: the pack's tokens.
        positions: each token's position in its row.
        places: for every row, the pack's index of each of its tokens.
        buckets: rows side by side for attention; a shared start comes before the rows that share it.
    """

    ids: list[int]
    positions: list[int]
    places: list[list[int]]
    buckets: list[Places]


def lay_out(rows: Sequence[TokenRow], device: torch.device, *, share: bool) -> Layout:
    """Return the layout of ``rows``; without ``share`` every row has its own tokens, in the order given."""
    layout = Layout([], [], [[] for _ in rows], [])
    groups = _groups(rows) if share else [(list(range(len(rows))), 0)]
    for members, shared in groups:
        start = len(layout.ids)
        common = list(range(start, start + shared))
        layout.ids.extend(rows[members[0]].ids[:shared])
        layout.positions.extend(range(shared))
        if shared:
            layout.buckets.append(Places(torch.tensor([common], device=device)))
        for member in members:
            own = rows[member].ids[shared : _end(rows[member])]
            first = len(layout.ids)
            layout.places[member] = common + list(range(first, first + len(own)))
            layout.ids.extend(own)
            layout.positions.extend(range(shared, shared + len(own)))
        layout.buckets.extend(_buckets([layout.places[member] for member in members], shared, device))
    return layout


def lay_out_tree(rows: Sequence[TokenRow], device: torch.device) -> Layout:
    """Return the layout of ``rows`` as a tree of all their common starts, for scoring alone.

    What is scored is shared as well: the choices of an item, two answers of which only the end differs, the examples in
    front of every item. Segments that lie equally deep and are of like length meet attention side by side, whatever
    stands in front of them; backward, which sums what shared tokens are owed, does not know that case.
    """
    ids = [row.ids[: _end(row)] for row in rows]
    layout = Layout([], [], [[] for _ in rows], [])
    segments: dict[int, list[list[int]]] = {}
    open_ = [(sorted(range(len(rows)), key=lambda index: ids[index]), list[int]())]
    while open_:
        members, path = open_.pop()
        first, last = ids[members[0]], ids[members[-1]]  # in order, so what these two share all share
        depth, common = len(path), _common(first, last)
        alike = first == last
        if alike or (common - depth) * (len(members) - 1) >= _LEAST_SAVED:
            start = len(layout.ids)
            layout.ids.extend(first[depth:common])
            layout.positions.extend(range(depth, common))
            path = path + list(range(start, len(layout.ids)))
            if common > depth:
                segments.setdefault(depth, []).append(path)
        ended = [index for index in members if len(ids[index]) == common == len(path)]
        for index in ended:
            layout.places[index] = path
        if not alike:
            going = members[len(ended) :]  # a row that ends here comes before those that go on
            nexts = {index: ids[index][common : common + 1] for index in going}
            open_ += [(list(group), path) for _, group in groupby(going, nexts.__getitem__)]
    for depth in sorted(segments):
        layout.buckets.extend(_buckets(segments[depth], depth, device))
    return layout


def _end(row: TokenRow) -> int:
    """Return how many tokens of ``row`` anything depends on: those up to the last that predicts a trained one."""
    return max(index for index, flag in enumerate(row.trained) if flag)


def _groups(rows: Sequence[TokenRow]) -> list[tuple[list[int], int]]:
    """Return groups of rows with the number of tokens that each group's rows share."""
    order = sorted(range(len(rows)), key=lambda index: rows[index].ids)
    groups: list[tuple[list[int], int]] = []
    for index in order:
        own = max(0, rows[index].trained.index(True) - 1)
        if groups:
            members, shared = groups[-1]
            both = min(own, shared, _common(rows[members[-1]].ids, rows[index].ids))
            # A group that would lose more than half of what it shares is better closed.
            alone = len(members) == 1
            if both >= _LEAST_SHARED and (alone or 2 * both >= shared):
                members.append(index)
                groups[-1] = (members, both)
                continue
        groups.append(([index], own))
    return [(sorted(members), shared if len(members) > 1 else 0) for members, shared in groups]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _buckets(places: list[list[int]], shared: int, device: torch.device) -> list[Places]:
    buckets: list[list[list[int]]] = []
    for row in sorted(places, key=len, reverse=True):
        if buckets:
            longest = len(buckets[-1][0])
            fits = (len(buckets[-1]) + 1) * longest * longest <= _BUCKET_SCORES
            if fits and len(row) - shared >= _LIKE * (longest - shared):
                buckets[-1].append(row)
                continue
        buckets.append([row])
    return [
        Places(torch.tensor([row + [-1] * (len(bucket[0]) - len(row)) for row in bucket], device=device), shared)
        for bucket in buckets
    ]
