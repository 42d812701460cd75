"""Running a base over packed rows: hidden states at the positions that matter, without padding and without leakage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lamina.model.attention import PACKED_ATTENTION
from lamina.records import TokenRow

__all__ = ["Pack", "hidden_states", "make_pack", "packed_mode", "supports_packing"]


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows laid end to end.

    Attributes:
        ids: (1, T) token ids.
        positions: (1, T) positions within each row.
        lengths: tokens of each row.
        sources: (N,) pack positions whose next token is trained (or scored).
        targets: (N,) those next tokens.
        counts: for each row, how many of the N are its own, in order.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    sources: Tensor
    targets: Tensor
    counts: tuple[int, ...]


def make_pack(rows: Sequence[TokenRow], device: torch.device) -> Pack:
    """Return the pack of ``rows``, in order."""
    ids: list[int] = []
    positions: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    for row in rows:
        start = len(ids)
        trained = [index for index, flag in enumerate(row.trained) if flag]
        sources += [start + index - 1 for index in trained]
        targets += [row.ids[index] for index in trained]
        ids += row.ids
        positions += range(len(row.ids))
    return Pack(
        ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        lengths=tuple(len(row.ids) for row in rows),
        sources=torch.tensor(sources, dtype=torch.long, device=device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        counts=tuple(row.trained_count for row in rows),
    )


def hidden_states(model: PreTrainedModel, pack: Pack) -> Tensor:
    """Return the last hidden states, (N, width), at the pack's source positions.

    Within ``packed_mode`` the rows go through together; outside it one at a time, which every causal model can do.
    """
    if model.config._attn_implementation == PACKED_ATTENTION:
        states = model.base_model(
            input_ids=pack.ids, position_ids=pack.positions, row_lengths=pack.lengths, use_cache=False
        ).last_hidden_state
    else:
        rows = pack.ids.split(pack.lengths, dim=1)
        states = torch.cat([model.base_model(input_ids=row, use_cache=False).last_hidden_state for row in rows], 1)
    chosen: Tensor = states[0, pack.sources]
    return chosen


@contextmanager
def packed_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch the model's attention to packed rows, and back."""
    before = model.config._attn_implementation
    model.set_attn_implementation(PACKED_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def supports_packing(model: PreTrainedModel) -> bool:
    """Return whether packed rows give the logits that each row gives alone, tried on random tokens.

    Families whose blocks carry state across tokens, or do not pass keywords down to attention, do not; they take the
    slower path of one row at a time.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    device = model.get_input_embeddings().weight.device
    ids = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in (7, 5)]
    rows = [TokenRow(tuple(row), (False,) + (True,) * (len(row) - 1)) for row in ids]
    pack = make_pack(rows, device)
    try:
        with packed_mode(model):
            together = hidden_states(model, pack).float()
    except (ValueError, TypeError, RuntimeError):
        return False
    expected = hidden_states(model, pack).float()
    tolerance = 1e-4 if model.dtype == torch.float32 else 3e-2
    return bool((together - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0))
