"""The blended loss: token and parent as one target, against plain torch, and without all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lamina.model import head as module
from lamina.model.base import LoadedBase


def draw(base: LoadedBase, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, base.head.weight.shape[1], generator=generator)


@pytest.mark.parametrize("block", [3, 256])
def test_loss_divergence_and_slope_are_plain_torchs(
    any_base: LoadedBase, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    head, count = any_base.head, 7
    states, parents = draw(any_base, count, 1), draw(any_base, count, 2)
    targets = torch.arange(count) * 5 + 3
    shares = torch.tensor([0.25, 1.0, 0.5, 0.1, 1.0, 0.75, 0.5])

    plain = states.clone().requires_grad_()
    own, wanted = head.logits(plain).log_softmax(-1), head.logits(parents).log_softmax(-1)
    apart = F.kl_div(own, wanted, reduction="none", log_target=True).sum(-1)
    loss = (shares * apart + (1 - shares) * F.nll_loss(own, targets, reduction="none")).sum()
    loss.backward()

    ours = states.clone().requires_grad_()
    found, moved = head.blended_sum(ours, targets, parents, shares)
    (2.0 * found).backward()
    assert float(found.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(moved) == pytest.approx(float(apart.sum().detach()), rel=1e-4)
    assert not moved.requires_grad
    assert ours.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad, 2.0 * plain.grad, atol=1e-5, rtol=1e-4)


def test_whoever_agrees_with_the_parent_is_not_moved(llama_base: LoadedBase) -> None:
    states = draw(llama_base, 5, 1)
    ours = states.clone().requires_grad_()
    found, moved = llama_base.head.blended_sum(ours, torch.arange(5), states, torch.ones(5))
    found.backward()
    assert float(found.detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(moved) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(ours.grad, torch.zeros_like(states), atol=1e-6, rtol=0)
