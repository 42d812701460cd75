"""Answers of one stack that are written together, token by token, each with choices of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from lamina.model.base import LoadedBase
from lamina.serve.constrain import Binding
from lamina.serve.engine import Generation, RefusedError, Token

__all__ = ["Batch", "Job", "Sampler"]


class Sampler:
    """Chooses one answer's tokens."""

    def __init__(self, request: Generation, binding: Binding | None) -> None:
        """Choose as ``request`` says, within what ``binding`` allows."""
        self._how = request.sampling
        self._binding = binding
        self._said: Counter[int] = Counter()
        self._random = torch.Generator()
        if self._how.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(self._how.seed)

    def choose(self, logits: Tensor) -> Token:
        """Return the next token for float32 ``logits`` (V,), with the log-probabilities that the model itself gives."""
        weighed = self._weigh(logits)
        if self._how.temperature > 0:
            token = int(torch.multinomial(self._chances(weighed), 1, generator=self._random))
        else:
            token = int(weighed.argmax())
        self._said[token] += 1
        if self._binding is not None:
            self._binding.advance(token)
        if self._how.top_logprobs is None:
            return Token(id=token)
        log_probs = torch.log_softmax(logits, -1)
        likeliest = log_probs.topk(min(self._how.top_logprobs, len(logits)))
        top = tuple(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
        return Token(id=token, logprob=float(log_probs[token]), top=top)

    @property
    def is_over(self) -> bool:
        """Whether a grammar has come to its end."""
        return self._binding is not None and self._binding.is_over

    def _weigh(self, logits: Tensor) -> Tensor:
        how = self._how
        weighed = logits.clone()
        for token, bias in how.logit_bias:
            weighed[token] += bias
        if how.frequency_penalty or how.presence_penalty:
            for token, count in self._said.items():
                weighed[token] -= how.frequency_penalty * count + how.presence_penalty
        return weighed if self._binding is None else self._binding.mask(weighed)

    def _chances(self, logits: Tensor) -> Tensor:
        chances = torch.softmax(logits / self._how.temperature, -1)
        if self._how.top_p >= 1:
            return chances
        ordered, places = chances.sort(descending=True)
        # A token stays if those before it have not reached top_p, so that one always does.
        ordered[ordered.cumsum(0) - ordered >= self._how.top_p] = 0
        return torch.zeros_like(chances).scatter_(0, places, ordered)


@dataclass(eq=False, slots=True)
class Job:
    """A request and where its tokens go; ``cancelled`` is set when nobody waits for them any more."""

    request: Generation
    say: Callable[[Token | Exception], None]
    cancelled: bool = False


@dataclass(eq=False, slots=True)
class _Row:
    job: Job
    sampler: Sampler
    last: int = -1
    written: int = 0


@dataclass(eq=False, slots=True)
class Batch:
    """Jobs with the same layers over one cache of their own, from which finished rows are dropped."""

    base: LoadedBase
    rows: list[_Row]
    _cache: DynamicCache = field(init=False)
    _mask: Tensor | None = None
    _is_new: bool = True

    def __post_init__(self) -> None:
        self._cache = DynamicCache(config=self.base.model.config)

    @classmethod
    def of(cls, base: LoadedBase, jobs: Sequence[tuple[Job, Sampler]]) -> Batch:
        """Return a batch that has not begun."""
        return cls(base, [_Row(job, sampler) for job, sampler in jobs])

    @torch.no_grad()
    def step(self) -> None:
        """Write one token of every answer."""
        self._keep([place for place, row in enumerate(self.rows) if not row.job.cancelled])
        if self.rows:
            logits = self._logits().cpu()
            self._keep([place for place, row in enumerate(self.rows) if self._write(row, logits[place])])

    def fail(self, error: Exception) -> None:
        """Tell every job that it will not be answered."""
        for row in self.rows:
            row.job.say(error)
        self.rows = []

    def _write(self, row: _Row, logits: Tensor) -> bool:
        """Say the row's next token; return whether there are more to come."""
        try:
            token = row.sampler.choose(logits)
        except RefusedError as error:
            row.job.say(error)
            return False
        assert token.id is not None
        if token.id in self.base.stop_ids:
            row.job.say(Token(id=None, finish="stop"))
            return False
        row.last, row.written = token.id, row.written + 1
        finish = None
        if row.sampler.is_over:
            finish = "stop"
        elif row.written >= row.job.request.sampling.max_tokens:
            finish = "length"
        row.job.say(Token(id=token.id, logprob=token.logprob, top=token.top, finish=finish))  # type: ignore[arg-type]
        return finish is None

    def _keep(self, places: list[int]) -> None:
        if len(places) == len(self.rows):
            return
        if places and not self._is_new:
            kept = torch.tensor(places, device=self.base.device)
            self._cache.batch_select_indices(kept)
            self._mask = None if self._mask is None else self._mask[kept]
        self.rows = [self.rows[place] for place in places]

    def _logits(self) -> Tensor:
        """Return float32 logits of the next token, (rows, V)."""
        if self._is_new:
            ids, positions = self._begin()
        else:
            ids = torch.tensor([[row.last] for row in self.rows], device=self.base.device)
            positions = None
            if self._mask is not None:
                positions = self._mask.sum(1, keepdim=True)
                self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], 1)
        self._is_new = False
        states = self.base.model.base_model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return self.base.head.logits(states[:, -1])

    def _begin(self) -> tuple[Tensor, Tensor | None]:
        """Return the prompts, padded on the left where their lengths differ, and their positions."""
        prompts = [row.job.request.prompt for row in self.rows]
        longest = max(map(len, prompts))
        ids = [[prompt[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        if all(len(prompt) == longest for prompt in prompts):
            return torch.tensor(ids, device=self.base.device), None
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._mask = torch.tensor(mask, device=self.base.device)
        return torch.tensor(ids, device=self.base.device), (self._mask.cumsum(1) - 1).clamp(min=0)
