"""Log-probabilities of given answers, packed: no padding, no cache, one pass, every common start once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lamina.model.base import LoadedBase
from lamina.records import Tick, TokenRow

__all__ = ["Encoder", "Scored", "continuation", "rolling_windows", "score_rows", "score_rows_greedily"]

_PACK_TOKENS = 4096


class Encoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of ``text``."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A row's scored tokens: their log-probabilities in nats, and whether greedy decoding writes them all."""

    log_probs: tuple[float, ...]
    is_greedy: bool


def score_rows(base: LoadedBase, rows: Sequence[TokenRow], tick: Tick | None = None) -> list[tuple[float, ...]]:
    """Return the log-probabilities, in nats, of every row's trained tokens, under ``base`` with its attached layers.

    ``tick`` advances by one per row.
    """
    return [scored.log_probs for scored in _score(base, rows, tick, greedy=False)]


def score_rows_greedily(base: LoadedBase, rows: Sequence[TokenRow], tick: Tick | None = None) -> list[Scored]:
    """Return the same with whether greedy decoding writes the trained tokens, for one more pass of the head."""
    return _score(base, rows, tick, greedy=True)


@torch.no_grad()
def _score(base: LoadedBase, rows: Sequence[TokenRow], tick: Tick | None, *, greedy: bool) -> list[Scored]:
    scores: dict[int, Scored] = {}
    for indices in _packs(rows):
        states, pack = base.scoring_states([rows[index] for index in indices])
        log_probs = base.head.log_probs(states, pack.targets)
        likeliest = base.head.are_likeliest(states, pack.targets) if greedy else torch.zeros_like(pack.targets).bool()
        if pack.repeats is not None:
            log_probs, likeliest = log_probs[pack.repeats], likeliest[pack.repeats]
        parts = zip(indices, log_probs.split(pack.counts), likeliest.split(pack.counts), strict=True)
        scores |= {index: Scored(tuple(own.tolist()), bool(flags.all())) for index, own, flags in parts}
        if tick is not None:
            tick(len(indices))
    return [scores[index] for index in range(len(rows))]


def _packs(rows: Sequence[TokenRow]) -> Iterator[list[int]]:
    """Yield the rows' indices in packs: rows of one question stay together, questions of like length meet."""
    questions: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        questions.setdefault(row.ids[: row.trained.index(True)], []).append(index)
    pack: list[int] = []
    filled = 0
    for question in sorted(questions, key=lambda ids: (-len(ids), ids)):
        members = sorted(questions[question], key=lambda index: -len(rows[index].ids))
        tokens = len(question) + sum(len(rows[index].ids) - len(question) for index in members)
        if pack and filled + tokens > _PACK_TOKENS:
            yield pack
            pack, filled = [], 0
        pack += members
        filled += tokens
    if pack:
        yield pack


def continuation(encoder: Encoder, context: str, text: str, start: Sequence[int] = ()) -> TokenRow:
    """Return ``context`` and ``text`` as running text of which ``text`` is scored.

    The whole is tokenised at once and cut where the context alone would end; white space at the context's end belongs
    to the text, since that is how a tokenizer joins it to the next word.

    Args:
        encoder: the tokenizer.
        context: what stands in front; may be empty if ``start`` is not.
        text: what is scored, with the space in front of it.
        start: ids in front of everything, as the BOS of tokenizers that add one.

    Source: ``TemplateLM._encode_pair`` of lm-evaluation-harness.
    """
    bare = context.rstrip()
    whole = encoder.encode(context + text, add_special_tokens=False)
    first = len(encoder.encode(bare, add_special_tokens=False)) + len(start)
    ids = (*start, *whole)
    return TokenRow(ids, (False,) * first + (True,) * (len(ids) - first))


def rolling_windows(ids: Sequence[int], start: int, longest: int) -> Iterator[TokenRow]:
    """Yield windows of at most ``longest`` inputs over a text, in which every token is scored exactly once.

    The first token is scored behind ``start``; of the last window, which overlaps the one before it, only the rest is.

    Source: ``get_rolling_token_windows`` of lm-evaluation-harness with one token of context.
    """
    for begin in range(0, len(ids), longest):
        end = min(begin + longest, len(ids))
        if begin == 0:
            yield TokenRow((start, *ids[:end]), (False, *(True,) * end))
            continue
        new = end - begin
        window = tuple(ids[max(0, end - longest - 1) : end])
        yield TokenRow(window, (False,) * (len(window) - new) + (True,) * new)
