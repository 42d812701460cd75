"""What vLLM is asked for one answer, and what its tokens mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lamina.serve.engine import EngineError, Sampling, Token
from lamina.serve.grammar import grammar_of

__all__ = ["sampling_params", "tokens_of"]


def sampling_params(how: Sampling, stop_ids: frozenset[int]) -> Any:
    """Return ``how`` as vLLM's ``SamplingParams``: tokens as they come, without text, until one of ``stop_ids``.

    Schemas and grammars go as llguidance's notation, which vLLM's backend of that name follows.

    Raises:
        RefusedError: if the schema or grammar is wrong.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    grammar = grammar_of(how)
    return SamplingParams(
        max_tokens=how.max_tokens,
        temperature=how.temperature,
        top_p=how.top_p,
        seed=None if how.seed is None else how.seed % 2**63,  # to vLLM, -1 is no seed
        frequency_penalty=how.frequency_penalty,
        presence_penalty=how.presence_penalty,
        logit_bias=dict(how.logit_bias) or None,
        logprobs=how.top_logprobs,
        stop_token_ids=sorted(stop_ids),
        structured_outputs=None if grammar is None else StructuredOutputsParams(grammar=grammar),
        output_kind=RequestOutputKind.DELTA,
        detokenize=False,
    )


def tokens_of(said: Any, how: Sampling, stop_ids: frozenset[int]) -> list[Token]:
    """Return what a ``CompletionOutput`` adds to the answer; its last token ends it if vLLM says so.

    Raises:
        EngineError: if vLLM gave the answer up.
    """
    if said.finish_reason not in (None, "stop", "length"):
        raise EngineError(f"vLLM ended the answer: {said.finish_reason}")
    ids = list(said.token_ids)
    rows = said.logprobs if how.top_logprobs is not None else [{}] * len(ids)
    at_stop = said.finish_reason == "stop"
    if at_stop and ids and ids[-1] in stop_ids:
        ids.pop()
    tokens = [_token(token, row, how.top_logprobs or 0) for token, row in zip(ids, rows, strict=False)]
    if at_stop:
        tokens.append(Token(id=None, finish="stop"))
    elif said.finish_reason == "length":
        tokens[-1:] = [replace(token, finish="length") for token in tokens[-1:] or [Token(id=None)]]
    return tokens


def _token(token: int, row: Mapping[int, Any], most: int) -> Token:
    """Return a token with the likeliest ones of its place; vLLM's row has the chosen one besides, wherever it ranks."""
    if token not in row:
        return Token(id=token)
    likeliest = sorted((found.rank, other, found.logprob) for other, found in row.items() if found.rank <= most)
    return Token(id=token, logprob=row[token].logprob, top=tuple((other, value) for _, other, value in likeliest))
