"""Fused blocks compute what transformers computes, whatever rows share, and give every row only its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lamina.config import BaseSettings
from lamina.kernels.reference import TorchKernels
from lamina.kernels.shapes import Places
from lamina.lora.adapter import Factors
from lamina.lora.surgery import attach, fresh_adapter, set_trained
from lamina.model import bucket, rows
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.model.fused import FUSED_FAMILIES, fuse
from lamina.model.packed import Pack, find_fused, fused_states, make_pack
from lamina.records import Quiet, TokenRow
from lamina.train.state import TrainState


@pytest.fixture(params=FUSED_FAMILIES)
def any_base(request: pytest.FixtureRequest, base_folders: dict[str, Path]) -> LoadedBase:
    return load(base_folders[request.param], torch.float32)


@pytest.fixture
def fused_base(sharp_base: LoadedBase) -> LoadedBase:
    assert sharp_base.fused is not None
    return sharp_base


@pytest.fixture(params=[8, 256])
def queries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many queries a block of attention has: several blocks to a row, or one."""
    monkeypatch.setattr(bucket, "_QUERIES", request.param)
    return request.param


def load(folder: Path, dtype: torch.dtype) -> LoadedBase:
    return load_base(resolve_base(BaseSettings(model=str(folder)), Quiet()), dtype=dtype)


class Trained(NamedTuple):
    """What a pack gave."""

    states: Tensor
    loss: Tensor
    gradient: Tensor


def make_rows() -> list[TokenRow]:
    """Return rows longer than the windows and blocks: three open alike, two alike otherwise, one like none."""
    generator = torch.Generator().manual_seed(1)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 290, (length,), generator=generator).tolist())

    system, question = ids(21), ids(12)
    made = []
    for start, own in ((system, 14), (question, 3), (system, 6), ((), 40), (system, 13), (question, 30)):
        row = (*start, *ids(own))
        first = len(start) + (1 if start is question else 4)
        # The second to last token is not trained, nor is every fifth.
        trained = tuple(place >= first and place != len(row) - 2 and place % 5 != 0 for place in range(len(row)))
        made.append(TokenRow(row, trained))
    return made


def transformers_states(base: LoadedBase, chosen: Sequence[TokenRow]) -> Tensor:
    states = []
    for row in chosen:
        alone = base.model.base_model(input_ids=torch.tensor([row.ids]), use_cache=False).last_hidden_state[0]
        states.append(alone[[place - 1 for place, flag in enumerate(row.trained) if flag]])
    return torch.cat(states)


def random_adapter(base: LoadedBase, rank: int, seed: int) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(base.model, rank, seed)
    return {path: Factors(f.A, torch.randn(f.B.shape, generator=generator) * 0.1) for path, f in fresh.items()}


def train(base: LoadedBase, pack: Pack, *, recompute: bool = False) -> Trained:
    """Return the pack's states, loss and gradient with a layer in training over a frozen one."""
    attach(base.model, [random_adapter(base, 2, seed=3)])
    state = TrainState(random_adapter(base, 4, seed=5), base.device)
    set_trained(base.model, state.pairs, 2.0)
    assert base.fused is not None
    states = fused_states(base.fused, pack, recompute=recompute)
    loss = base.head.loss_sum(states, pack.targets)
    loss.backward()
    return Trained(states.detach(), loss.detach(), state.gradient)


def agree(found: Tensor, expected: Tensor) -> bool:
    """Return whether two float32 results differ by rounding only, relative to the largest number."""
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def with_kernels(base: LoadedBase, kernels: TorchKernels) -> LoadedBase:
    assert base.fused is not None
    return replace(base, fused=replace(base.fused, kernels=kernels), head=replace(base.head, kernels=kernels))


def test_known_families_are_fused_and_others_are_not(base_folders: dict[str, Path]) -> None:
    fused = {name for name, folder in base_folders.items() if load(folder, torch.float32).fused is not None}
    assert fused == set(FUSED_FAMILIES) == set(base_folders) - {"gpt2"}


@torch.no_grad()
@pytest.mark.usefixtures("queries")
@pytest.mark.parametrize("share", [False, True])
def test_states_equal_those_of_transformers_row_by_row(fused_base: LoadedBase, share: bool) -> None:
    expected = transformers_states(fused_base, make_rows())
    pack = make_pack(make_rows(), fused_base.device, share=share)
    assert fused_base.fused is not None
    assert agree(fused_states(fused_base.fused, pack), expected)
    assert agree(fused_states(with_kernels(fused_base, TorchKernels()).fused, pack), expected)


@pytest.mark.usefixtures("queries")
def test_sharing_starts_changes_neither_states_nor_loss_nor_gradient(fused_base: LoadedBase) -> None:
    packs = [make_pack(make_rows(), fused_base.device, share=share) for share in (True, False)]
    assert packs[0].ids.shape[1] == packs[1].ids.shape[1] - 2 * 21 - 12
    for found, expected in zip(*(train(fused_base, pack) for pack in packs), strict=True):
        assert agree(found, expected)


@pytest.mark.usefixtures("queries")
def test_torchs_kernels_give_what_the_compiled_ones_give(fused_base: LoadedBase) -> None:
    pack = make_pack(make_rows(), fused_base.device, share=True)
    torchs = train(with_kernels(fused_base, TorchKernels()), pack)
    for found, expected in zip(train(fused_base, pack), torchs, strict=True):
        assert agree(found, expected)


@pytest.mark.usefixtures("queries")
def test_recomputing_gives_the_same_bits(fused_base: LoadedBase) -> None:
    pack = make_pack(make_rows(), fused_base.device, share=True)
    kept, again = (train(fused_base, pack, recompute=recompute) for recompute in (False, True))
    assert all(map(torch.equal, kept, again))
    assert float(kept.gradient.abs().max()) > 0


@pytest.mark.usefixtures("queries")
def test_bfloat16_is_close_to_float32(fused_base: LoadedBase, base_folders: dict[str, Path]) -> None:
    base = load(base_folders[fused_base.pin.family], torch.bfloat16)
    for exact, rounded in zip(fused_base.model.parameters(), base.model.parameters(), strict=True):
        rounded.data.copy_(exact)
    pack = make_pack(make_rows(), base.device, share=True)
    for found, expected in zip(train(base, pack), train(fused_base, pack), strict=True):
        assert (found.float() - expected).norm() <= 0.05 * expected.norm()


def test_biases_of_every_map_are_added() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=300,
        attention_bias=True,
        mlp_bias=True,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
    decoder = find_fused(model)
    assert decoder is not None
    row = make_rows()[3]
    states = fused_states(decoder, make_pack([row], torch.device("cpu"), share=True))
    own = model.model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
    assert agree(states, own[[place - 1 for place, flag in enumerate(row.trained) if flag]])


def test_a_window_that_transformers_does_not_apply_is_not_applied() -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=300
    )
    config.sliding_window = 64  # left over in a config.json; transformers' Llama does not read it
    decoder = fuse(LlamaForCausalLM(config).eval().requires_grad_(False), TorchKernels())
    assert decoder is not None
    assert [block.attention.window for block in decoder.blocks] == [0]


# What these comparisons would not forgive


@torch.no_grad()
def test_a_token_shared_too_many_is_noticed(fused_base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = transformers_states(fused_base, make_rows())
    common = rows._common
    monkeypatch.setattr(rows, "_common", lambda first, second: common(first, second) + 1)
    found = fused_states(fused_base.fused, make_pack(make_rows(), fused_base.device, share=True))
    assert not agree(found, expected)


@torch.no_grad()
def test_rows_that_see_each_other_are_noticed(fused_base: LoadedBase) -> None:
    expected = transformers_states(fused_base, make_rows())
    pack = make_pack(make_rows(), fused_base.device)
    as_one = replace(pack, buckets=[Places(torch.arange(pack.ids.shape[1])[None])])
    assert agree(fused_states(fused_base.fused, pack), expected)
    assert not agree(fused_states(fused_base.fused, as_one), expected)


@torch.no_grad()
def test_a_window_one_too_wide_is_noticed(fused_base: LoadedBase) -> None:
    decoder = fused_base.fused
    assert decoder is not None
    windows = [block.attention.window for block in decoder.blocks]
    assert windows == {"mistral": [8, 8], "gemma2": [8, 0], "gemma3_text": [8, 0]}.get(fused_base.pin.family, [0, 0])
    wider = [
        replace(block, attention=replace(block.attention, window=9 if window else 0))
        for block, window in zip(decoder.blocks, windows, strict=True)
    ]
    pack = make_pack(make_rows(), fused_base.device, share=True)
    found = fused_states(replace(decoder, blocks=tuple(wider)), pack)
    assert agree(found, transformers_states(fused_base, make_rows())) == (not any(windows))
