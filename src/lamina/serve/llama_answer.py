"""One answer, written in turns: what llama.cpp is asked for each, and what its tokens mean."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Literal

from lamina.serve.engine import Generation, Token
from lamina.serve.llama_turns import Slot
from lamina.serve.llama_worker import Ended, Said, Worker

__all__ = ["Answer"]

_TURN_TOKENS = 16
_PREFILL_TOKENS = 512
_CHOOSING = ["top_k", "temperature", "top_p"]
_FORCED = 1e4  # a bias that no logit comes near


class Answer:
    """An answer while it is written.

    Plain answers are streamed. llama.cpp's stream leaves out tokens that end within a character, so that where some are
    missing the turn is done again token by token; penalised answers are written token by token because their biases
    change with each. An answer bound by a grammar is written at once, since only llama.cpp knows what comes next.
    """

    def __init__(
        self, worker: Worker, slot: Slot, request: Generation, *, grammar: str | None, stop_ids: frozenset[int]
    ) -> None:
        """Prepare to answer ``request`` in ``slot``, within ``grammar``, until one of ``stop_ids``."""
        self._worker = worker
        self._slot = slot
        self._prompt = request.prompt
        self._layers = request.layers
        self._how = request.sampling
        self._grammar = grammar
        self._stop_ids = stop_ids
        self._seed = secrets.randbits(32) if self._how.seed is None else self._how.seed
        self._written: list[int] = []
        self._penalised = bool(self._how.frequency_penalty or self._how.presence_penalty)
        self._missing = False

    async def write(self, say: Callable[[Token], None]) -> None:
        """Write the answer, turn by turn."""
        await self._read_prompt()
        over = False
        while not over:
            async with self._worker.turns.of(self._layers):
                over = await self._turn(say)

    async def _read_prompt(self) -> None:
        """Fill the slot with all but the end of the prompt, in turns too: a long one must not hold up other stacks."""
        cached = self._slot.shared(self._layers, self._prompt)
        self._slot.layers, self._slot.tokens = self._layers, list(self._prompt[:cached])
        for end in range(cached + _PREFILL_TOKENS, len(self._prompt), _PREFILL_TOKENS):
            async with self._worker.turns.of(self._layers):
                await self._worker.ask(self._slot.index, self._layers, self._prompt[:end], 0, {})
            self._slot.tokens = list(self._prompt[:end])

    async def _turn(self, say: Callable[[Token], None]) -> bool:
        """Write a few tokens; return whether the answer is over."""
        room = self._worker.context - len(self._prompt) - len(self._written)
        if self._written and room < 1:
            say(Token(id=None, finish="length"))
            return True
        left = min(self._how.max_tokens - len(self._written), max(1, room))
        if self._grammar is not None:
            return await self._ask(left, say)
        if not (self._penalised or self._missing):
            return await self._stream(min(left, _TURN_TOKENS), say)
        self._missing = False
        for _ in range(min(left, _TURN_TOKENS)):
            if await self._ask(1, say):
                return True
        return False

    async def _stream(self, count: int, say: Callable[[Token], None]) -> bool:
        held: Said | None = None
        seen = 0
        asked = self._worker.stream(self._slot.index, self._layers, self._so_far(), count, self._options())
        async with aclosing(asked) as events:  # type: ignore[type-var]
            async for event in events:
                at_stop = isinstance(event, Ended) and event.at_stop
                if held is not None and not at_stop:
                    say(self._take(held))
                held = None
                if event.count != seen + isinstance(event, Said):
                    self._missing = True
                    return False
                if isinstance(event, Ended):
                    return self._finish(say, at_stop=at_stop, short=seen < count)
                seen += 1
                if event.id in self._stop_ids:
                    return self._finish(say, at_stop=True, short=False)
                # A token without text may end the answer by llama.cpp's rules alone: what follows tells.
                if event.hidden:
                    held = event
                else:
                    say(self._take(event))
        raise AssertionError("a turn without an end")

    async def _ask(self, count: int, say: Callable[[Token], None]) -> bool:
        said, ended = await self._worker.ask(self._slot.index, self._layers, self._so_far(), count, self._options())
        whole = len(said)
        if ended.at_stop or (said and said[-1].id in self._stop_ids):
            said = said[:-1]
        for one in said:
            say(self._take(one if self._is_weighed(one) else await self._weigh(one)))
        return self._finish(say, at_stop=len(said) < whole, short=whole < count)

    def _finish(self, say: Callable[[Token], None], *, at_stop: bool, short: bool) -> bool:
        self._slot.tokens = self._so_far()
        if at_stop or short:  # short of what was asked for: the slot is full
            say(Token(id=None, finish="stop" if at_stop else "length"))
            return True
        return len(self._written) == self._how.max_tokens

    def _is_weighed(self, said: Said) -> bool:
        return self._how.top_logprobs is None or said.logprob is not None

    async def _weigh(self, said: Said) -> Said:
        """Return the token with its log-probability, which llama.cpp tells of whatever else it is made to choose."""
        options = self._options() | {"logit_bias": [[min(self._stop_ids), _FORCED]], "grammar": ""}
        options["n_probs"] = max(options["n_probs"], 100)
        [other], _ = await self._worker.ask(self._slot.index, self._layers, self._so_far(), 1, options)
        return Said(said.id, dict(other.top).get(said.id), other.top, said.hidden, said.count)

    def _take(self, said: Said) -> Token:
        self._written.append(said.id)
        finish: Literal["length"] | None = "length" if len(self._written) == self._how.max_tokens else None
        if self._how.top_logprobs is None:
            return Token(id=said.id, finish=finish)
        return Token(id=said.id, logprob=said.logprob, top=said.top[: self._how.top_logprobs], finish=finish)

    def _so_far(self) -> list[int]:
        return [*self._prompt, *self._written]

    def _options(self) -> dict[str, Any]:
        how = self._how
        options: dict[str, Any] = {
            "temperature": how.temperature,
            "top_p": how.top_p,
            # Greedy: without it llama.cpp weighs the whole vocabulary first, a twentieth of a small model's time.
            "top_k": 0 if how.temperature else 1,
            "samplers": _CHOOSING,
            "seed": _turn_seed(self._seed, len(self._written)),
        }
        if how.top_logprobs is not None:
            options["n_probs"] = max(1, how.top_logprobs)
        bias = dict(how.logit_bias)
        if self._grammar is not None:
            options |= {"grammar": self._grammar}
        if self._penalised and self._grammar is not None:
            # llama.cpp's own penalties, which count the prompt's tokens as well.
            penalties = {"presence_penalty": how.presence_penalty, "frequency_penalty": how.frequency_penalty}
            options |= penalties | {"repeat_last_n": -1, "samplers": ["penalties", *_CHOOSING]}
        elif self._penalised:
            for token, times in Counter(self._written).items():
                bias[token] = bias.get(token, 0.0) - how.presence_penalty - how.frequency_penalty * times
        if bias:
            options["logit_bias"] = [[token, value] for token, value in bias.items()]
        return options


def _turn_seed(seed: int, position: int) -> int:
    """Return a turn's own seed: with one for all, every turn would draw the same numbers."""
    digest = hashlib.blake2b(f"{seed} {position}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % (2**32 - 1)  # the last number means "any" to llama.cpp
