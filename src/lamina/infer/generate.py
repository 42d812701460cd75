"""Generating answers: batched and greedy for evaluation, batched and sampled for rehearsal, streamed for chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from lamina.model.base import LoadedBase
from lamina.records import Tick

__all__ = ["greedy_answers", "sampled_answers", "stream_tokens"]

Choose = Callable[[Tensor], list[int]]
_BATCH_ROWS = 64
_BATCH_TOKENS = 8192


@dataclass(slots=True)
class _Open:
    """An answer being written: its place in the caller's list, the ids in front, a guess and its weight, ids so far."""

    index: int
    prompt: list[int]
    guess: list[int]
    answer: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


def greedy_answers(
    base: LoadedBase,
    prompts: Sequence[list[int]],
    *,
    max_tokens: int,
    guesses: Sequence[list[int]] | None = None,
    tick: Tick | None = None,
    weigh: Callable[[int, list[float]], None] | None = None,
) -> list[list[int]]:
    """Return the greedy continuation of every prompt, as ids without the stop token.

    Where a guess of the answer is at hand (an evaluation has its references), it goes through the model together with
    the prompt; the model's own greedy choices are read off at every position, and generation goes on from where they
    leave the guess. What comes out is what plain greedy decoding gives. Rows go one at a time, without guesses, in
    families that cannot be packed, because those may not allow padding either. ``tick`` advances by one per answer.
    ``weigh`` is told, for the place of every prompt with a guess that went through the model, the log-probabilities of
    the guess's tokens in nats; they cost next to nothing here.

    Source: speculative decoding (Leviathan et al. 2023, arXiv:2211.17192) with the reference as the draft.
    """
    drafts = [guess[:max_tokens] for guess in guesses] if guesses is not None else [[] for _ in prompts]
    answers: dict[int, list[int]] = {}
    if base.packed:
        items = [
            _Open(i, list(prompt), list(draft)) for i, (prompt, draft) in enumerate(zip(prompts, drafts, strict=True))
        ]
        for batch in _batches(items, max_tokens):
            _answer_batch(base, batch, max_tokens, weighed=weigh is not None)
            answers |= {item.index: item.answer for item in batch}
            if weigh is not None:
                for item in batch:
                    if item.guess:
                        weigh(item.index, item.log_probs)
            if tick is not None:
                tick(len(batch))
        return [answers[index] for index in range(len(prompts))]
    for index, prompt in enumerate(prompts):
        answers[index] = list(stream_tokens(base, prompt, max_tokens=max_tokens))
        if tick is not None:
            tick(1)
    return [answers[index] for index in range(len(prompts))]


@torch.no_grad()
def sampled_answers(
    base: LoadedBase, prompts: Sequence[Sequence[int]], *, max_tokens: int, seed: int
) -> list[list[int]]:
    """Return a continuation of every prompt drawn at temperature 1, as ids without the stop token.

    All prompts go through together, so they should be few and of like length. The same seed draws the same.
    """
    if not base.packed:
        drawn = enumerate(prompts)
        return [
            list(stream_tokens(base, prompt, max_tokens=max_tokens, temperature=1.0, seed=seed + place))
            for place, prompt in drawn
        ]
    generator = torch.Generator().manual_seed(seed)

    def draw(logits: Tensor) -> list[int]:
        drawn: list[int] = torch.multinomial(torch.softmax(logits.cpu(), -1), 1, generator=generator)[:, 0].tolist()
        return drawn

    items = [_Open(place, list(prompt), []) for place, prompt in enumerate(prompts)]
    cache = DynamicCache()
    ids, mask = _left_pad([item.prompt for item in items], base.device)
    states = _forward(base, ids, cache, mask, (mask.cumsum(1) - 1).clamp(min=0))
    _write_on(base, items, draw(base.head.logits(states[:, -1])), cache, mask, max_tokens, draw)
    return [item.answer for item in items]


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
        logits = base.head.logits(_forward(base, ids, cache)[:, -1])[0]
        if temperature > 0:
            chances = torch.softmax(logits.cpu() / temperature, -1)
            token = int(torch.multinomial(chances, 1, generator=generator))
        else:
            token = int(logits.argmax())
        if token in base.stop_ids:
            return
        yield token
        ids = torch.tensor([[token]], device=base.device)


def _batches(items: list[_Open], max_tokens: int) -> Iterator[list[_Open]]:
    """Yield the items, longest first, in batches whose padded tokens fit."""
    ordered = sorted(items, key=lambda item: -len(item.prompt) - len(item.guess))
    while ordered:
        longest = len(ordered[0].prompt) + max_tokens
        rows = max(1, min(_BATCH_ROWS, _BATCH_TOKENS // longest))
        yield ordered[:rows]
        ordered = ordered[rows:]


@torch.no_grad()
def _answer_batch(base: LoadedBase, batch: list[_Open], max_tokens: int, *, weighed: bool) -> None:
    """Write the answers of ``batch`` to their ends, left-padded over one cache from which finished rows are dropped."""
    # Without the config every cache layer keeps all tokens, also where attention slides: a layer that forgets could
    # not give back what a rejected guess has pushed out.
    cache = DynamicCache()
    ids, mask = _left_pad([item.prompt + item.guess for item in batch], base.device)
    states = _forward(base, ids, cache, mask, (mask.cumsum(1) - 1).clamp(min=0))
    tokens, rejected = _keep_guesses(base, batch, states, weighed=weighed)
    mask = _drop_rejected(cache, mask, torch.tensor(rejected, device=base.device))
    _write_on(base, batch, tokens, cache, mask, max_tokens, lambda logits: logits.argmax(-1).tolist())


def _write_on(
    base: LoadedBase,
    batch: Sequence[_Open],
    tokens: list[int],
    cache: DynamicCache,
    mask: Tensor,
    max_tokens: int,
    choose: Choose,
) -> None:
    """Write the answers to their ends, ``tokens`` next; finished rows leave the cache."""
    active = list(batch)
    while True:
        going = []
        for place, (item, token) in enumerate(zip(active, tokens, strict=True)):
            if token not in base.stop_ids and len(item.answer) < max_tokens:
                item.answer.append(token)
                if len(item.answer) < max_tokens:
                    going.append(place)
        if not going:
            return
        if len(going) < len(active):
            kept = torch.tensor(going, device=base.device)
            cache.batch_select_indices(kept)
            mask = mask[kept]
            active = [active[place] for place in going]
        ids = torch.tensor([[item.answer[-1]] for item in active], device=base.device)
        positions = mask.sum(1, keepdim=True)
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], 1)
        tokens = choose(base.head.logits(_forward(base, ids, cache, mask, positions)[:, -1]))


def _keep_guesses(
    base: LoadedBase, batch: list[_Open], states: Tensor, *, weighed: bool
) -> tuple[list[int], list[int]]:
    """Write each guess into its answer as far as the model agrees; return the next tokens, and how many it refused."""
    tokens, rejected = [], []
    for item, row in zip(batch, states, strict=True):
        logits = base.head.logits(row[-1 - len(item.guess) :])
        choices = logits.argmax(-1).tolist()
        if weighed:
            guess = torch.tensor(item.guess, device=logits.device)[:, None]
            item.log_probs = torch.log_softmax(logits[:-1].float(), -1).gather(1, guess)[:, 0].tolist()
        # A reference may hold an end as its own text; what the model says ends there all the same.
        pairs = zip(item.guess, choices[:-1], strict=True)
        agreed = [guess == choice and choice not in base.stop_ids for guess, choice in pairs]
        kept = agreed.index(False) if False in agreed else len(agreed)
        item.answer = item.guess[:kept]
        tokens.append(choices[kept])
        rejected.append(len(item.guess) - kept)
    return tokens, rejected


def _drop_rejected(cache: DynamicCache, mask: Tensor, rejected: Tensor) -> Tensor:
    """Shift each row of ``cache`` right until its refused tokens are gone; return the mask of what is left."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    index = (columns - rejected[:, None]) % mask.shape[1]
    moved = mask.gather(1, index) * (columns >= rejected[:, None])
    empty = int((moved.sum(0) == 0).sum())
    index = index[:, None, empty:, None]
    for layer in cache.layers:
        layer.keys = layer.keys.gather(2, index.expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3]))
        layer.values = layer.values.gather(2, index.expand(-1, layer.values.shape[1], -1, layer.values.shape[3]))
    return moved[:, empty:]


def _forward(
    base: LoadedBase, ids: Tensor, cache: DynamicCache, mask: Tensor | None = None, positions: Tensor | None = None
) -> Tensor:
    base.meter.count(ids.numel(), backward=False)
    states: Tensor = base.model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state
    return states


def _left_pad(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[row[0]] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask
