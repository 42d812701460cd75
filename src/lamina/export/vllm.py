"""A stack as the one adapter that vLLM takes per request: a PEFT folder of a rank that vLLM has kernels for.

Source: vLLM 0.32, config/lora.py, ``MaxLoRARanks``.
"""

from __future__ import annotations

from pathlib import Path

from lamina.errors import StackError
from lamina.export.peft import BaseMaps, write_peft
from lamina.lora.adapter import Adapter, widen

__all__ = ["MOST_RANK", "kernel_rank", "rank_of", "write_vllm"]

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
MOST_RANK = _RANKS[-1]


def kernel_rank(needed: int) -> int:
    """Return the smallest rank that vLLM has kernels for and that holds ``needed``, at most ``MOST_RANK``."""
    return next((rank for rank in _RANKS if rank >= needed), MOST_RANK)


def rank_of(whole: Adapter) -> int:
    """Return the rank that vLLM must make room for: the largest among an adapter's maps."""
    return max(factors.rank for factors in whole.values())


def write_vllm(whole: Adapter, folder: Path, *, name: str, base: str, maps: BaseMaps) -> int:
    """Write ``whole`` into ``folder`` with every map at one rank, which is returned; the zeros change nothing.

    Args:
        whole: a stack's layers as one, with their scales folded in.
        folder: an existing folder.
        name: the stack's, for messages.
        base: what the adapter is for: a hub id, or a name for people.
        maps: the base's.

    Raises:
        StackError: if its rank is more than vLLM takes, or what was written does not come back equal.
        OSError: if the disk is full or read-only.
    """
    needed, rank = rank_of(whole), kernel_rank(rank_of(whole))
    if needed > rank:
        raise StackError(
            f"{name}: its layers have rank {needed} together, and vLLM takes up to {MOST_RANK}",
            hint="`lamina squash` them to a lower rank first, or serve them with --engine llama",
        )
    write_peft(widen(whole, rank), folder, base=base, maps=maps)
    return rank
