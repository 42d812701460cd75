"""The compiled kernels' build, and what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lamina.kernels import native as native_module
from lamina.kernels.native import NativeKernels, build_native
from lamina.kernels.shapes import Heads, Mask, Places, Turns

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="no C++ compiler on this machine"
)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_native_not_a_number_stays_one(native: NativeKernels, dtype: torch.dtype) -> None:
    x = normal(2, 20, seed=0, dtype=dtype)
    x[1, 3] = torch.nan
    assert native.norm(x, torch.ones(20), 1e-5).isnan().any(-1).tolist() == [False, True]
    assert native.gate(x, gelu=False).isnan().any(-1).tolist() == [False, True]
    assert native.gate(x, gelu=True).isnan().any(-1).tolist() == [False, True]
    losses = native.cross_entropy_(x.clone(), torch.tensor([0, 0]), 1.0, None, with_slope=True)
    assert losses.isnan().tolist() == [False, True]
    scores = x.view(2, 1, 1, 20).clone()
    native.softmax_(scores, Mask(first_query=19), 1.0, None)
    assert scores.isnan().flatten(1).any(-1).tolist() == [False, True]


@needs_compiler
def test_native_refuses_tensors_with_holes(native: NativeKernels) -> None:
    x = normal(4, 8, seed=0)
    with pytest.raises(ValueError, match="norm: expected contiguous tensors"):
        native.norm(x.t(), torch.ones(4), 1e-5)
    with pytest.raises(ValueError, match="norm_backward: expected contiguous tensors"):
        native.norm_backward(x, x, torch.ones(16)[::2], 1e-5)
    with pytest.raises(ValueError, match="softmax: expected contiguous tensors"):
        native.softmax_(normal(1, 1, 4, 6, seed=0)[..., 2:], Mask(), 1.0, None)


@needs_compiler
def test_native_refuses_gradients_of_fewer_keys_than_there_are(native: NativeKernels) -> None:
    places, heads = Places(torch.arange(5)[None]), Heads(2, 1, 4)
    turns, qkv = Turns(torch.ones(5, 4), torch.zeros(5, 4)), normal(5, heads.line, seed=0)
    dq, dk, dv = native.split(qkv, turns, places, heads)
    with pytest.raises(ValueError, match="expected gradients of all 5 keys"):
        native.split_backward_(torch.zeros_like(qkv), (dq, dk[:, 2:].contiguous(), dv), qkv, turns, places, heads)


@needs_compiler
def test_a_second_build_runs_no_compiler(native: NativeKernels, builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_again(*_: object, **__: object) -> None:
        raise AssertionError("the compiler ran")

    monkeypatch.setattr(native_module.subprocess, "run", compile_again)
    with pytest.raises(AssertionError, match="the compiler ran"):
        build_native.__wrapped__(builds, "another machine")
    assert [path.suffix for path in builds.iterdir()] == [".so"]
    assert isinstance(build_native.__wrapped__(builds, "tests"), NativeKernels)
    monkeypatch.setenv("PATH", str(builds))
    assert isinstance(build_native.__wrapped__(builds, "tests"), NativeKernels)  # nor is one needed


@needs_compiler
def test_a_damaged_build_is_built_again(native: NativeKernels, builds: Path, tmp_path: Path) -> None:
    (built,) = builds.glob("*.so")
    (tmp_path / built.name).write_bytes(b"damaged")
    assert isinstance(build_native.__wrapped__(tmp_path, "tests"), NativeKernels)
    assert (tmp_path / built.name).stat().st_size == built.stat().st_size


def test_without_a_compiler_there_are_no_native_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build_native.__wrapped__(tmp_path / "builds", "tests") is None
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text('#!/bin/sh\nfor last; do :; done\necho half > "$last"\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent))
    assert build_native.__wrapped__(tmp_path / "builds", "tests") is None
    assert list((tmp_path / "builds").iterdir()) == []
