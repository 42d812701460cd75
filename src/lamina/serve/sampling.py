"""What both kinds of completion share: the request's numbers as ``Sampling``, and the counts of an answer."""

from __future__ import annotations

from typing import Any

from lamina.serve.choices import Work
from lamina.serve.engine import Sampling
from lamina.serve.errors import ApiError
from lamina.serve.gateway import Gateway
from lamina.serve.wire import Common

__all__ = ["sampling_of", "usage_of"]

_GREEDY_BELOW = 1e-5  # what logits are divided by; less of it overflows


def sampling_of(
    gateway: Gateway, body: Common, *, max_tokens: int, top_logprobs: int | None, schema: dict[str, Any] | None = None
) -> Sampling:
    """Return how tokens are chosen for ``body``. A temperature that is not given is 0, as in ``lamina chat``.

    So is one next to nothing, as in vLLM: in float32 the logits would be infinite.

    Raises:
        ApiError: 400, if more choices are asked for than one request may have, or a token id is not one.
    """
    if body.choices > gateway.limits.choices:
        raise ApiError(400, f"'n' is {body.choices}; this server gives at most {gateway.limits.choices}", param="n")
    bias = tuple((int(token), value) for token, value in (body.logit_bias or {}).items())
    gateway.check_ids([token for token, _ in bias], "logit_bias")
    return Sampling(
        max_tokens=max_tokens,
        temperature=0.0 if body.temperature is None or body.temperature < _GREEDY_BELOW else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=bias,
        top_logprobs=top_logprobs,
        schema=schema,
        grammar=body.grammar,
    )


def usage_of(work: Work, written: int) -> dict[str, int]:
    """Return the counts of a request whose answers have ``written`` tokens together."""
    return {
        "prompt_tokens": work.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": work.prompt_tokens + written,
    }
