"""Running a base over packed rows: hidden states at the positions that matter, without padding and without leakage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lamina.kernels.shapes import Places
from lamina.model.attention import PACKED_ATTENTION
from lamina.model.fused import FusedDecoder, fuse
from lamina.model.head import agree
from lamina.model.machine import pick_kernels
from lamina.model.rows import lay_out, lay_out_tree
from lamina.records import TokenRow

__all__ = [
    "Pack",
    "find_fused",
    "fused_states",
    "make_pack",
    "make_scoring_pack",
    "packed_mode",
    "plain_states",
    "supports_packing",
]


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows laid end to end, what they share kept once.

    Attributes:
        ids: (1, T) token ids.
        positions: (1, T) positions within each row.
        lengths: tokens of each row; they add up to T where nothing is shared.
        buckets: the rows side by side, for fused attention.
        sources: (N,) pack positions whose next token is trained (or scored).
        targets: (N,) those next tokens.
        counts: for each row, how many of the N are its own, in order.
        repeats: where rows share what is scored: (sum of counts,) which of the N each row's tokens are; else None.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    buckets: list[Places]
    sources: Tensor
    targets: Tensor
    counts: tuple[int, ...]
    repeats: Tensor | None = None


def make_pack(rows: Sequence[TokenRow], device: torch.device, *, share: bool = False) -> Pack:
    """Return the pack of ``rows``; with ``share`` for fused blocks, without it for transformers' own."""
    layout = lay_out(rows, device, share=share)
    sources: list[int] = []
    targets: list[int] = []
    for row, places in zip(rows, layout.places, strict=True):
        trained = [index for index, flag in enumerate(row.trained) if flag]
        sources += [places[index - 1] for index in trained]
        targets += [row.ids[index] for index in trained]
    return Pack(
        ids=torch.tensor([layout.ids], device=device),
        positions=torch.tensor([layout.positions], device=device),
        lengths=tuple(len(places) for places in layout.places),
        buckets=layout.buckets,
        sources=torch.tensor(sources, dtype=torch.long, device=device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        counts=tuple(row.trained_count for row in rows),
    )


def make_scoring_pack(rows: Sequence[TokenRow], device: torch.device) -> Pack:
    """Return the pack of ``rows`` for fused blocks without backward: every common start once, what is scored too."""
    layout = lay_out_tree(rows, device)
    wanted = [
        (places[index - 1], row.ids[index])
        for row, places in zip(rows, layout.places, strict=True)
        for index, flag in enumerate(row.trained)
        if flag
    ]
    order = {pair: place for place, pair in enumerate(dict.fromkeys(wanted))}
    sources, targets = torch.tensor(list(order), dtype=torch.long, device=device).unbind(1)
    return Pack(
        ids=torch.tensor([layout.ids], device=device),
        positions=torch.tensor([layout.positions], device=device),
        lengths=tuple(len(places) for places in layout.places),
        buckets=layout.buckets,
        sources=sources.contiguous(),
        targets=targets.contiguous(),
        counts=tuple(row.trained_count for row in rows),
        repeats=torch.tensor([order[pair] for pair in wanted], device=device),
    )


def fused_states(decoder: FusedDecoder, pack: Pack, *, recompute: bool = False) -> Tensor:
    """Return the last hidden states, (N, width), at the pack's source positions, through fused blocks."""
    return decoder.states(pack.ids[0], pack.positions[0], pack.buckets, pack.sources, recompute=recompute)


def plain_states(model: PreTrainedModel, pack: Pack) -> Tensor:
    """Return the same through transformers' own code, for a pack in which nothing is shared.

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
def find_fused(model: PreTrainedModel) -> FusedDecoder | None:
    """Return the model's decoder as fused blocks, if its family is known and random rows come out the same.

    The rows are longer than a small sliding window and share their first tokens, so that both are tried.
    """
    decoder = fuse(model, pick_kernels(model.get_input_embeddings().weight.device))
    if decoder is None:
        return None
    rows = _random_rows(model, (29, 18), shared=12)
    device = model.get_input_embeddings().weight.device
    states = fused_states(decoder, make_pack(rows, device, share=True))
    return decoder if agree(model, states, plain_states(model, make_pack(rows, device))) else None


@torch.no_grad()
def supports_packing(model: PreTrainedModel) -> bool:
    """Return whether packed rows give the logits that each row gives alone, tried on random tokens.

    Families whose blocks carry state across tokens, or do not pass keywords down to attention, do not; they take the
    slower path of one row at a time.
    """
    pack = make_pack(_random_rows(model, (7, 5), shared=0), model.get_input_embeddings().weight.device)
    try:
        with packed_mode(model):
            together = plain_states(model, pack)
    except (ValueError, TypeError, RuntimeError):
        return False
    return agree(model, together, plain_states(model, pack))


def _random_rows(model: PreTrainedModel, lengths: Sequence[int], shared: int) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]
    first = max(1, shared + 1)
    return [TokenRow((*ids[0][:shared], *row[shared:]), (False,) * first + (True,) * (len(row) - first)) for row in ids]
