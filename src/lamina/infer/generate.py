"""Generating answers: batched and greedy for evaluation, streamed and sampled for chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from lamina.infer.score import score_rows
from lamina.model.base import LoadedBase
from lamina.records import Tick, TokenRow

__all__ = ["greedy_answers", "stream_tokens"]

_BATCH_ROWS = 64


@dataclass(slots=True)
class _Open:
    """An answer being written: its place in the caller's list, the ids fed in front of it, and its ids so far."""

    index: int
    prompt: list[int]
    answer: list[int] = field(default_factory=list)


def greedy_answers(
    base: LoadedBase,
    prompts: Sequence[list[int]],
    *,
    max_tokens: int,
    guesses: Sequence[list[int]] | None = None,
    tick: Tick | None = None,
) -> list[list[int]]:
    """Return the greedy continuation of every prompt, as ids without the stop token.

    Where a guess of the answer is at hand (an evaluation has its references), the prompt and the guess go through the
    model once, packed; the model's own greedy choices are read off at every position, and generation starts only where
    they leave the guess. What comes out is what plain greedy decoding gives. ``tick`` advances by one per answer.

    Source: speculative decoding (Leviathan et al. 2023, arXiv:2211.17192) with the reference as the draft.
    """
    drafts = guesses if guesses is not None else [[] for _ in prompts]
    stop = min(base.stop_ids)
    rows = [_draft_row(prompt, [*guess[:max_tokens], stop]) for prompt, guess in zip(prompts, drafts, strict=True)]
    verified = score_rows(base, rows) if guesses is not None else []
    answers: dict[int, list[int]] = {}
    waiting: list[_Open] = []
    for index, (prompt, guess) in enumerate(zip(prompts, drafts, strict=True)):
        kept = guess[: verified[index].greedy] if verified else []
        if verified and verified[index].greedy == len(guess[:max_tokens]) + 1:
            answers[index] = kept
        elif len(kept) >= max_tokens:
            answers[index] = kept[:max_tokens]
        else:
            waiting.append(_Open(index, list(prompt), list(kept)))
    if tick is not None:
        tick(len(answers))
    waiting.sort(key=lambda item: -len(item.prompt) - len(item.answer))
    for start in range(0, len(waiting), _BATCH_ROWS):
        batch = waiting[start : start + _BATCH_ROWS]
        _decode(base, batch, max_tokens)
        answers |= {item.index: item.answer for item in batch}
        if tick is not None:
            tick(len(batch))
    return [answers[index] for index in range(len(prompts))]


@torch.no_grad()
def stream_tokens(
    base: LoadedBase, prompt: Sequence[int], *, max_tokens: int, temperature: float = 0.0, seed: int | None = None
) -> Iterator[int]:
    """Yield the ids of one answer as they are chosen; temperature 0 is greedy."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    cache = DynamicCache(config=base.model.config)
    ids = torch.tensor([list(prompt)], device=base.device)
    for _ in range(max_tokens):
        logits = _last_logits(base, ids, cache, None, None)[0]
        if temperature > 0:
            chances = torch.softmax(logits.cpu() / temperature, -1)
            token = int(torch.multinomial(chances, 1, generator=generator))
        else:
            token = int(logits.argmax())
        if token in base.stop_ids:
            return
        yield token
        ids = torch.tensor([[token]], device=base.device)


@torch.no_grad()
def _decode(base: LoadedBase, batch: list[_Open], max_tokens: int) -> None:
    """Write the answers of ``batch`` to their ends, left-padded over one cache from which finished rows are dropped."""
    ids, mask, positions = _left_pad([item.prompt + item.answer for item in batch], base.device)
    cache = DynamicCache(config=base.model.config)
    active = list(batch)
    while True:
        tokens = _last_logits(base, ids, cache, mask, positions).argmax(-1).tolist()
        going = []
        for place, (item, token) in enumerate(zip(active, tokens, strict=True)):
            if token not in base.stop_ids:
                item.answer.append(token)
                if len(item.answer) < max_tokens:
                    going.append(place)
        if not going:
            return
        if len(going) < len(active):
            kept = torch.tensor(going, device=base.device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
            active = [active[place] for place in going]
        ids = torch.tensor([[item.answer[-1]] for item in active], device=base.device)
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], 1)
        positions = positions[:, -1:] + 1


def _last_logits(
    base: LoadedBase, ids: Tensor, cache: DynamicCache, mask: Tensor | None, positions: Tensor | None
) -> Tensor:
    out = base.model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return base.head.logits(out.last_hidden_state[:, -1])


def _left_pad(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[row[0]] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def _draft_row(prompt: list[int], guess: list[int]) -> TokenRow:
    return TokenRow((*prompt, *guess), (False,) * len(prompt) + (True,) * len(guess))
