"""Where a layer starts: apart from the layers below it, and the same every time."""

from __future__ import annotations

import torch

from lamina.lora.adapter import Factors
from lamina.lora.start import start_factors
from lamina.lora.surgery import attach, fresh_adapter
from lamina.model.base import LoadedBase


def overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return how much of the rows of ``first`` lies in the row space of ``second``, 0..1."""
    inside = first.double() @ torch.linalg.qr(second.double().t()).Q
    return float(inside.square().sum() / first.double().square().sum())


def test_the_first_layer_starts_as_ever(any_base: LoadedBase) -> None:
    for how in ("seeded", "apart", "orthogonal"):
        found = start_factors(any_base.model, 4, 7, how, [])  # type: ignore[arg-type]
        for path, factors in fresh_adapter(any_base.model, 4, 7).items():
            assert torch.equal(found[path].A, factors.A)
            assert not found[path].B.any()


def test_layers_with_one_seed_start_apart(llama_base: LoadedBase) -> None:
    first = start_factors(llama_base.model, 4, 0, "apart", [])
    second = start_factors(llama_base.model, 4, 0, "apart", [first])
    again = start_factors(llama_base.model, 4, 0, "apart", [second])
    assert all(torch.equal(second[path].A, again[path].A) for path in second)
    assert all(overlap(second[path].A, first[path].A) < 0.7 for path in second)
    same = start_factors(llama_base.model, 4, 0, "seeded", [first])
    assert all(torch.equal(same[path].A, first[path].A) for path in same)


def test_an_orthogonal_start_looks_where_no_layer_below_does(any_base: LoadedBase) -> None:
    below = [start_factors(any_base.model, rank, seed, "seeded", []) for seed, rank in ((1, 4), (2, 6))]
    drawn = start_factors(any_base.model, 4, 0, "apart", below)
    found = start_factors(any_base.model, 4, 0, "orthogonal", below)
    attach(any_base.model, below)
    assert all(
        torch.equal(found[path].A, start_factors(any_base.model, 4, 0, "orthogonal", below)[path].A) for path in found
    )
    for path, factors in found.items():
        frozen = torch.cat([each[path].A for each in below])
        assert overlap(factors.A, frozen) < 1e-10
        assert overlap(drawn[path].A, frozen) > 0.01
        torch.testing.assert_close(factors.A.norm(dim=1), drawn[path].A.norm(dim=1))


def test_where_the_layers_below_look_everywhere_nothing_is_taken_out(llama_base: LoadedBase) -> None:
    below = [start_factors(llama_base.model, 32, 1, "seeded", [])]
    found = start_factors(llama_base.model, 4, 0, "orthogonal", below)
    full = [path for path, factors in below[0].items() if factors.A.shape[1] <= 32]
    assert full
    drawn = start_factors(llama_base.model, 4, 0, "apart", below)
    assert all(torch.equal(found[path].A, drawn[path].A) for path in full)


def test_a_map_that_no_layer_below_adapts_keeps_its_draw(llama_base: LoadedBase) -> None:
    whole = start_factors(llama_base.model, 4, 1, "seeded", [])
    path, *rest = whole
    found = start_factors(llama_base.model, 4, 0, "orthogonal", [{path: Factors(whole[path].A, whole[path].B)}])
    drawn = start_factors(llama_base.model, 4, 0, "apart", [whole])
    assert not torch.equal(found[path].A, drawn[path].A)
    assert all(torch.equal(found[name].A, drawn[name].A) for name in rest)
