"""The gradient of a packed step equals that of plain float32 PEFT, row by row, over the same frozen layers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lamina.lora import linear
from lamina.lora.adapter import Adapter, Factors, scale_of
from lamina.lora.linear import LoRALinear
from lamina.lora.surgery import attach, fresh_adapter, set_trained
from lamina.model.base import LoadedBase
from lamina.records import TokenRow
from lamina.train.state import TrainState

RANK, ALPHA = 4, 6.0
SCALES = [1.0, -0.5]  # of the frozen layers


def make_rows() -> list[TokenRow]:
    """Return rows of unequal lengths, of which two open alike and one trains all but its first token."""
    generator = torch.Generator().manual_seed(2)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 290, (length,), generator=generator).tolist())

    opening = ids(18)
    shapes = [((*opening, *ids(9)), 20), (ids(5), 1), ((*opening, *ids(4)), 19), (ids(31), 12)]
    return [TokenRow(row, tuple(place >= first for place in range(len(row)))) for row, first in shapes]


def random_adapter(model: PreTrainedModel, rank: int, seed: int) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(model, rank, seed)
    return {path: Factors(f.A, torch.randn(f.B.shape, generator=generator) * 0.1) for path, f in fresh.items()}


def peft_gradients(
    model: PreTrainedModel, frozen: Sequence[Adapter], start: Adapter, rows: Sequence[TokenRow], *, rslora: bool
) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    """Return the loss and the gradients of PEFT on a copy of ``model`` that has the frozen layers in its weights."""
    model = deepcopy(model)
    transposed = False
    for adapter, scale in zip(frozen, SCALES, strict=True):
        for path, factors in adapter.items():
            module = model.get_submodule(path)
            transposed = isinstance(module, Conv1D)
            delta = scale * factors.B.double() @ factors.A.double()
            module.weight.data = (module.weight.double() + (delta.t() if transposed else delta)).float()
    oracle = get_peft_model(
        model,
        LoraConfig(r=RANK, lora_alpha=ALPHA, use_rslora=rslora, target_modules=list(start), fan_in_fan_out=transposed),
    )
    named = dict(oracle.named_parameters())
    pairs = {
        path: tuple(named[f"base_model.model.{path}.lora_{letter}.default.weight"] for letter in "AB") for path in start
    }
    for path, factors in start.items():
        pairs[path][0].data.copy_(factors.A)
        pairs[path][1].data.copy_(factors.B)
    loss, total = 0.0, sum(row.trained_count for row in rows)
    for row in rows:
        places = [place for place, flag in enumerate(row.trained) if flag]
        logits = oracle(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        own = F.cross_entropy(logits[[place - 1 for place in places]], torch.tensor(row.ids)[places], reduction="sum")
        (own / total).backward()
        loss += float(own.detach()) / total
    return loss, {path: (A.grad, B.grad) for path, (A, B) in pairs.items()}


@pytest.mark.parametrize("folded", [False, True], ids=["factors", "folded"])
@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
def test_gradients_over_frozen_layers_equal_pefts(
    sharp_base: LoadedBase, folded: bool, rslora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both forms at once are a matter of ranks (test_linear.py); here every map takes the one that is asked for.
    monkeypatch.setattr(linear, "WORTH_FOLDING", 0.0 if folded else float("inf"))
    base, rows = sharp_base, make_rows()
    frozen = [random_adapter(base.model, rank, seed=rank) for rank in (2, 3)]
    start = random_adapter(base.model, RANK, seed=7)
    expected_loss, expected = peft_gradients(base.model, frozen, start, rows, rslora=rslora)

    attach(base.model, frozen, SCALES)
    state = TrainState(start, base.device)
    set_trained(base.model, state.pairs, scale_of(RANK, ALPHA, rslora=rslora))
    wrapped = [module for module in base.model.modules() if isinstance(module, LoRALinear)]
    assert all((module.frozen is None) == folded for module in wrapped)
    states, pack = base.last_states(rows)
    loss = base.head.loss_sum(states, pack.targets) / sum(row.trained_count for row in rows)
    loss.backward()

    assert float(loss.detach()) == pytest.approx(expected_loss, rel=1e-5)
    largest = max(float(gradient.abs().max()) for pair in expected.values() for gradient in pair)
    for path, pair in state.pairs.items():
        for ours, theirs in zip(pair, expected[path], strict=True):
            assert float(theirs.abs().max()) > 0
            torch.testing.assert_close(ours.grad, theirs, atol=1e-5 * largest, rtol=1e-3)
