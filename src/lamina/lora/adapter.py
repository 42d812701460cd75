"""One layer's weights as plain tensors, and the exact algebra on them.

An adapter maps the path of each adapted linear map to its factors. Scales are always folded into ``B``, so the addition
of an adapter is ``x A^T B^T`` with nothing left to multiply, whatever rank, alpha or rsLoRA made it.

Legend: r rank, d_in and d_out the map's widths.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad

from lamina.errors import StackError
from lamina.stack.manifest import WEIGHTS_TYPE
from lamina.stack.store import Store, disk_errors, write_atomically

__all__ = [
    "PREFIX",
    "Adapter",
    "Factors",
    "check_values",
    "combine",
    "load_adapter",
    "put_adapter",
    "read_tensors",
    "rescale",
    "save_adapter",
    "scale_of",
    "split",
    "widen",
]

PREFIX = "base_model.model."
_LARGEST = 1e4


@dataclass(frozen=True, slots=True)
class Factors:
    """The two factors of one adapted map: ``A`` (r, d_in) and ``B`` (d_out, r), float32."""

    A: Tensor
    B: Tensor

    @property
    def rank(self) -> int:
        """The inner width r."""
        return self.A.shape[0]


Adapter = Mapping[str, Factors]


def scale_of(rank: int, alpha: float, *, rslora: bool) -> float:
    """Return what a trained pair of factors is multiplied by: ``alpha / r``, or ``alpha / sqrt(r)`` with rsLoRA.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; Kalajdzievski 2023, arXiv:2312.03732.
    """
    return alpha / rank**0.5 if rslora else alpha / rank


def rescale(adapter: Adapter, scale: float) -> dict[str, Factors]:
    """Return the adapter whose addition is ``scale`` times as large."""
    return {path: Factors(factors.A, factors.B * scale) for path, factors in adapter.items()}


def combine(adapters: Sequence[Adapter], scales: Sequence[float] | None = None) -> dict[str, Factors]:
    """Return one adapter whose addition is the sum of all (law 8): ranks are laid side by side, never added.

    ``sum_i s_i x A_i^T B_i^T = x [A_1; A_2; ...]^T [s_1 B_1, s_2 B_2, ...]^T``. Adding the factors themselves would
    create cross terms.

    Raises:
        ValueError: if the numbers of adapters and scales differ.
    """
    weights = [1.0] * len(adapters) if scales is None else list(scales)
    parts: dict[str, list[Factors]] = {}
    for adapter, scale in zip(adapters, weights, strict=True):
        for path, factors in rescale(adapter, scale).items() if scale != 1.0 else adapter.items():
            parts.setdefault(path, []).append(factors)
    return {
        path: Factors(torch.cat([part.A for part in these]), torch.cat([part.B for part in these], dim=1))
        for path, these in parts.items()
    }


def split(adapter: Adapter, ranks: Sequence[int]) -> list[dict[str, Factors]]:
    """Return the adapters that ``combine`` laid side by side, given their ranks; its inverse when all adapt every map.

    Raises:
        ValueError: if the ranks do not add up to the adapter's.
    """
    pieces: list[dict[str, Factors]] = [{} for _ in ranks]
    for path, factors in adapter.items():
        if factors.rank != sum(ranks):
            raise ValueError(f"{path}: rank {factors.rank} is not the sum of {list(ranks)}")
        both = zip(factors.A.split(list(ranks)), factors.B.split(list(ranks), dim=1), strict=True)
        for piece, (A, B) in zip(pieces, both, strict=True):
            piece[path] = Factors(A, B)
    return pieces


def widen(adapter: Adapter, rank: int) -> dict[str, Factors]:
    """Return the same addition with every map at ``rank``, filled up with zeros.

    Raises:
        ValueError: if a map has a larger one.
    """
    wide: dict[str, Factors] = {}
    for path, factors in adapter.items():
        missing = rank - factors.rank
        if missing < 0:
            raise ValueError(f"{path}: rank {factors.rank} is more than {rank}")
        wide[path] = Factors(pad(factors.A, (0, 0, 0, missing)), pad(factors.B, (0, missing)))
    return wide


def save_adapter(adapter: Adapter, path: Path) -> None:
    """Write the adapter as safetensors under PEFT's key names; with ``lora_alpha = r`` PEFT loads it unchanged.

    Raises:
        OSError: if the disk is full or read-only; nothing is left then.
    """
    tensors: dict[str, Tensor] = {}
    for name, factors in adapter.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = factors.A.detach().float().cpu().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = factors.B.detach().float().cpu().contiguous()
    write_atomically(path, save(tensors, metadata={"format": "pt"}))


def put_adapter(store: Store, adapter: Adapter) -> str:
    """Keep the adapter in the store and return the digest of its safetensors blob.

    Raises:
        MachineError: if the disk is full or read-only.
    """
    runs = store.root / "runs"
    with disk_errors(runs):
        runs.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="weights-", dir=runs) as scratch:
            file = Path(scratch) / "weights.safetensors"
            save_adapter(adapter, file)
            return store.put_file(file, WEIGHTS_TYPE).digest


def check_values(path: Path, key: str, values: Tensor) -> None:
    """Check that a layer's tensor holds what training can have given.

    Raises:
        StackError: if it holds a value that is not finite, or larger than 10,000 (trained factors stay below 10).
    """
    largest = values.abs().max().item() if values.numel() else 0.0
    if not largest <= _LARGEST:  # also true of NaN
        raise StackError(
            f"{path}: {key} holds {largest:g}; expected finite values up to {_LARGEST:,.0f}",
            hint="the run that wrote it diverged: train the layer again with a lower learning rate",
        )


def read_tensors(path: Path, *, hint: str) -> dict[str, Tensor]:
    """Return every tensor of a safetensors file by key.

    Raises:
        StackError: with ``hint``, if it cannot be read as one.
    """
    try:
        with safe_open(path, framework="pt") as weights:
            return {key: weights.get_tensor(key) for key in weights.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise StackError(f"{path}: not a layer's weights: {error}", hint=hint) from error


def load_adapter(path: Path) -> dict[str, Factors]:
    """Return the adapter in a safetensors file that ``save_adapter`` wrote.

    Raises:
        StackError: if the file is damaged, has keys that are not pairs of LoRA factors, or values that no training
            gives: not finite, or larger than 10,000.
    """
    tensors = read_tensors(path, hint="pull or train the layer again")
    for key, values in tensors.items():
        check_values(path, key, values)
    adapter: dict[str, Factors] = {}
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        stem = key.removesuffix(".lora_A.weight")
        partner = tensors.pop(f"{stem}.lora_B.weight", None)
        if partner is not None:
            adapter[stem.removeprefix(PREFIX)] = Factors(tensors.pop(key), partner)
    if tensors or not adapter:
        raise StackError(f"{path}: keys that are not pairs of LoRA factors: {', '.join(sorted(tensors)[:3]) or 'none'}")
    return adapter
