"""Law 8: the concatenated layer is the sum of the layers, to float32 rounding."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import StackError
from lamina.lora.adapter import Factors, combine, load_adapter, rescale, save_adapter, scale_of, split

ranks_and_scales = st.lists(st.tuples(st.integers(1, 9), st.floats(-2, 2, allow_nan=False)), min_size=1, max_size=8)


def make(rank: int, seed: int, d_in: int = 12, d_out: int = 7) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    return {"m": Factors(torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator))}


@settings(deadline=None, max_examples=60)
@given(ranks_and_scales)
def test_combine_is_the_sum(parts: list[tuple[int, float]]) -> None:
    adapters = [make(rank, seed) for seed, (rank, _) in enumerate(parts)]
    together = combine(adapters, [scale for _, scale in parts])["m"]
    expected = sum(s * (a["m"].B.double() @ a["m"].A.double()) for a, (_, s) in zip(adapters, parts, strict=True))
    found = together.B.double() @ together.A.double()
    assert together.rank == sum(rank for rank, _ in parts)
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_split_undoes_combine(ranks: list[int]) -> None:
    adapters = [make(rank, seed) for seed, rank in enumerate(ranks)]
    for before, after in zip(adapters, split(combine(adapters), ranks), strict=True):
        assert torch.equal(before["m"].A, after["m"].A)
        assert torch.equal(before["m"].B, after["m"].B)


def test_split_refuses_wrong_ranks() -> None:
    with pytest.raises(ValueError, match=r"rank 4 is not the sum of \[1, 2\]"):
        split(make(4, 0), [1, 2])


def test_rslora_scale_folds_in() -> None:
    assert scale_of(16, 32, rslora=False) == 2.0
    assert scale_of(16, 32, rslora=True) == 8.0
    factors = make(4, 0)["m"]
    folded = rescale({"m": factors}, 8.0)["m"]
    assert torch.equal(folded.B @ folded.A, (8.0 * factors.B) @ factors.A)


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    before = make(3, 1)
    save_adapter(before, tmp_path / "w.safetensors")
    after = load_adapter(tmp_path / "w.safetensors")
    assert after.keys() == before.keys()
    assert torch.equal(after["m"].A, before["m"].A)
    assert torch.equal(after["m"].B, before["m"].B)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"not weights")
    with pytest.raises(StackError, match="not a layer's weights"):
        load_adapter(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_values_that_no_training_gives_are_refused(tmp_path: Path, value: float) -> None:
    B = torch.zeros(3, 2)
    B[1, 1] = value
    save_adapter({"up": Factors(torch.ones(2, 4), B)}, tmp_path / "x.safetensors")
    with pytest.raises(StackError, match=r"x\.safetensors: .*up\.lora_B\.weight holds"):
        load_adapter(tmp_path / "x.safetensors")
