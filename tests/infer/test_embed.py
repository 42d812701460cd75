"""Embeddings of prompts: the mean of the last hidden states, packed or alone, in any order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lamina.infer.embed import embed_prompts
from lamina.model.base import LoadedBase

PROMPTS = [[5, 9, 33, 121, 7], [88], [64, 2, 2, 9], [5, 9, 33, 4], list(range(10, 60))]


def test_it_is_the_mean_of_the_last_hidden_states(any_base: LoadedBase) -> None:
    found = embed_prompts(any_base, PROMPTS)
    for place, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            states = any_base.model.base_model(input_ids=torch.tensor([prompt]), use_cache=False).last_hidden_state
        mean = states[0].mean(0)
        assert found[place] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_order_does_not_matter(llama_base: LoadedBase) -> None:
    seen = []
    found = embed_prompts(llama_base, PROMPTS, lambda amount, detail="": seen.append(amount))
    assert sum(seen) == len(PROMPTS)
    assert np.array_equal(embed_prompts(llama_base, PROMPTS[::-1])[::-1], found)
