"""Grammars as masks over the vocabulary: what may come next so that the answer stays JSON, or what a grammar allows.

Source: llguidance (Microsoft), which follows a JSON Schema or grammar token by token in about 50 microseconds.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer, grammar_from
from llguidance.hf import from_tokenizer
from torch import Tensor

from lamina.serve.engine import RefusedError, Sampling

__all__ = ["Binder", "Binding"]


class Binding:
    """The state of one bound answer."""

    def __init__(self, matcher: LLMatcher) -> None:
        """Begin where the grammar begins."""
        self._matcher = matcher

    def mask(self, logits: Tensor) -> Tensor:
        """Return ``logits`` (V,) with minus infinity at every token that must not come next.

        Raises:
            RefusedError: if the grammar is too large to follow.
        """
        raw = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise RefusedError(f"the grammar cannot be followed: {self._matcher.get_error()}")
        bits = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        allowed = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        flat = allowed.flatten().bool()[: len(logits)]
        masked = torch.full_like(logits, float("-inf"))
        masked[: len(flat)][flat] = logits[: len(flat)][flat]
        return masked

    def advance(self, token: int) -> None:
        """Take note of the token that was chosen."""
        self._matcher.consume_token(token)

    @property
    def is_over(self) -> bool:
        """Whether the grammar allows nothing more."""
        return bool(self._matcher.is_stopped())


class Binder:
    """Makes bindings for one tokenizer, which takes a second to prepare and is prepared on first use."""

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int], vocabulary: int) -> None:
        """Bind answers of ``tokenizer`` that end with one of ``stop_ids``; logits have ``vocabulary`` columns."""
        self._tokenizer = tokenizer
        self._stop_ids = sorted(stop_ids)
        self._vocabulary = vocabulary
        self._prepared: LLTokenizer | None = None

    def bind(self, sampling: Sampling) -> Binding | None:
        """Return what binds an answer, None if nothing does.

        Raises:
            RefusedError: if the schema or grammar is wrong, or the tokenizer is not one that can be bound.
        """
        if sampling.schema is None and sampling.grammar is None:
            return None
        try:
            grammar = _grammar_of(sampling)
            if self._prepared is None:
                self._prepared = from_tokenizer(self._tokenizer, self._vocabulary, self._stop_ids)
        except ValueError as error:
            raise RefusedError(f"the answer cannot be bound: {error}") from error
        if problem := LLMatcher.validate_grammar(grammar, self._prepared):
            raise RefusedError(f"the answer cannot be bound: {problem}")
        return Binding(LLMatcher(self._prepared, grammar))


def _grammar_of(sampling: Sampling) -> str:
    if sampling.schema is not None:
        # The spelling of JSON that models are trained on; a model that may put in any space may never stop doing so.
        return LLMatcher.grammar_from_json_schema(
            json.dumps(sampling.schema),
            defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
        )
    return grammar_from("gbnf", sampling.grammar or "")
