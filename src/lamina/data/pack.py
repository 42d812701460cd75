"""How rows are cut into packs that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["pack_rows"]


def pack_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return the indices of rows, longest first, in packs of at most ``budget`` tokens (a longer row stands alone).

    Neighbours in length share a pack, so that attention, the one place where rows are padded, wastes little.
    """
    packs: list[list[int]] = []
    filled = budget + 1
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if filled + lengths[index] > budget:
            packs.append([])
            filled = 0
        packs[-1].append(index)
        filled += lengths[index]
    return packs
