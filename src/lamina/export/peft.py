"""PEFT adapter folders, written and read without PEFT.

    adapter_config.json          rank, alpha, targets
    adapter_model.safetensors    base_model.model.<path>.lora_A.weight (r, d_in)
                                 base_model.model.<path>.lora_B.weight (d_out, r)

Written with ``lora_alpha = r``, so that PEFT multiplies by one what has its scale folded in already. Read strictly:
every key is used, every map exists on the base in the same shape, and what is no plain low-rank addition is refused.

Source: PEFT 0.21, utils/save_and_load.py (keys), tuners/tuners_utils.py (targets), utils/other.py (patterns). GPT-2's
Conv1D maps are stored transposed in the base alone; an adapter's factors never are, whatever ``fan_in_fan_out`` says.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from lamina.errors import StackError
from lamina.export.variants import why_config_refused, why_key_refused
from lamina.lora.adapter import (
    PREFIX,
    Adapter,
    Factors,
    check_values,
    read_tensors,
    rescale,
    save_adapter,
    scale_of,
)
from lamina.lora.surgery import linear_shapes, transposed_paths
from lamina.stack.store import write_atomically

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "BaseMaps", "ForeignAdapter", "maps_of", "read_peft", "write_peft"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_KEY = re.compile(rf"{re.escape(PREFIX)}(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_SHOWN = 3
_FETCH = "fetch the folder again, or ask whoever made it"
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class BaseMaps:
    """What must be known of a base to name its maps.

    Attributes:
        shapes: (d_out, d_in) of every linear map but the output head, by path.
        transposed: paths of those that the base stores as (d_in, d_out).
        modules: paths of all modules; PEFT matches its targets against every one.
    """

    shapes: Mapping[str, tuple[int, int]]
    transposed: frozenset[str]
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForeignAdapter:
    """An adapter from elsewhere: its factors with the scale folded in, and what it says about its base."""

    factors: dict[str, Factors]
    peft_type: str
    base: str | None


class _Config(BaseModel):
    """The part of adapter_config.json that decides factors and scales."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    r: int = Field(ge=1)
    lora_alpha: float
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    base_model_name_or_path: str | None = None

    def rank_of(self, path: str) -> int:
        return _by_pattern(self.rank_pattern or {}, path, self.r)

    def scale_of(self, path: str) -> float:
        alpha = _by_pattern(self.alpha_pattern or {}, path, self.lora_alpha)
        return scale_of(self.rank_of(path), alpha, rslora=self.use_rslora)

    def targets(self, path: str) -> bool:
        if self.exclude_modules and _matches(self.exclude_modules, path):
            return False
        if self.target_modules is None or self.target_modules == "all-linear":
            return True
        if not _matches(self.target_modules, path):
            return False
        # A path that is spelled out is adapted whatever its block.
        return isinstance(self.target_modules, str) or path in self.target_modules or self._in_blocks(path)

    def _in_blocks(self, path: str) -> bool:
        wanted = self.layers_to_transform
        if wanted is None or wanted == []:
            return True
        for expression in self.block_expressions():
            if found := re.match(expression, path):
                return int(found["block"]) in ([wanted] if isinstance(wanted, int) else wanted)
        return False

    def block_expressions(self) -> list[str]:
        names = self.layers_pattern or [r"[^.]*"]
        return [rf"(?:^|.*?\.){name}\.(?P<block>\d+)\." for name in ([names] if isinstance(names, str) else names)]

    def expressions(self) -> list[str]:
        """Return everything that is used as a regular expression, as it is used."""
        whole = [names for names in (self.target_modules, self.exclude_modules) if isinstance(names, str)]
        patterns = (*(self.rank_pattern or ()), *(self.alpha_pattern or ()))
        return [*whole, *map(_anchored, patterns), *self.block_expressions()]


def maps_of(model: PreTrainedModel) -> BaseMaps:
    """Return the maps of a base, with or without layers on it; its weights may be on the meta device."""
    modules = tuple(path for path, _ in model.named_modules() if path)
    return BaseMaps(linear_shapes(model), frozenset(transposed_paths(model)), modules)


def write_peft(adapter: Adapter, folder: Path, *, base: str, maps: BaseMaps) -> None:
    """Write ``adapter`` into ``folder`` as PEFT would, and read it back to see that nothing changed (law 10).

    Args:
        adapter: factors with scales folded in, on any subset of the base's maps.
        folder: an existing folder.
        base: what PEFT should load the adapter onto: a hub id, or a name for people.
        maps: the base's.

    Raises:
        StackError: if the adapter is empty, adds nothing, or does not come back equal.
        OSError: if the disk is full or read-only.
    """
    if not any(factors.B.any() and factors.A.any() for factors in adapter.values()):
        raise StackError("the stack adds nothing to its base: there is nothing to export", hint="train a layer first")
    config = json.dumps(_config_of(adapter, base, maps), indent=2)
    save_adapter(adapter, folder / WEIGHTS_FILE)
    write_atomically(folder / CONFIG_FILE, f"{config}\n".encode())
    back = read_peft(folder, maps).factors
    for path, factors in adapter.items():
        if not (back[path].A.equal(factors.A.cpu()) and back[path].B.equal(factors.B.cpu())):
            raise StackError(f"{folder}: {path} does not come back as it was written", hint="check the disk")


def read_peft(folder: Path, maps: BaseMaps) -> ForeignAdapter:
    """Return the adapter in a PEFT folder, its scale folded into ``B``: alpha / r, or alpha / sqrt(r) with rsLoRA.

    Raises:
        StackError: if a file is missing or damaged, the adapter is no plain low-rank addition, or it does not fit the
            base.
    """
    raw = _read_config(folder)
    if (reason := why_config_refused(raw)) is not None:
        raise _refusal(folder, reason)
    config = _parse_config(folder, raw)
    pairs = _pair(folder, _read_weights(folder))
    _check_fit(folder, pairs, maps, config)
    _check_targets(folder, pairs, maps, config)
    factors: dict[str, Factors] = {}
    for path, pair in pairs.items():
        if pair.rank != (rank := config.rank_of(path)):
            raise StackError(f"{folder}: {path} has rank {pair.rank}, {CONFIG_FILE} says {rank}", hint=_FETCH)
        factors |= rescale({path: pair}, config.scale_of(path))
    for path, pair in factors.items():
        check_values(folder / WEIGHTS_FILE, f"{path}.lora_A", pair.A)
        check_values(folder / WEIGHTS_FILE, f"{path}.lora_B", pair.B)
    return ForeignAdapter(factors, str(raw["peft_type"]), config.base_model_name_or_path)


def _config_of(adapter: Adapter, base: str, maps: BaseMaps) -> dict[str, Any]:
    (rank, _), *_ = Counter(factors.rank for factors in adapter.values()).most_common(1)
    others = {f"^{re.escape(path)}": factors.rank for path, factors in adapter.items() if factors.rank != rank}
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": bool(maps.transposed & adapter.keys()),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": _name_targets(adapter, maps),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }


def _name_targets(adapter: Adapter, maps: BaseMaps) -> list[str]:
    """Return names like ``q_proj``, which every tool knows, where they mean just these maps; else whole paths."""
    names = sorted({path.rpartition(".")[2] for path in adapter})
    meant = {path for path in maps.modules if _matches(names, path)}
    return names if meant == adapter.keys() else sorted(adapter)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise StackError(
            f"{folder}: no {CONFIG_FILE}: not a PEFT adapter", hint="name the folder that PEFT's save_pretrained wrote"
        ) from error
    except OSError as error:
        raise StackError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
    except (ValueError, RecursionError) as error:
        raise StackError(f"{path}: not valid JSON: {error}", hint=_FETCH) from error
    if not isinstance(config, dict):
        raise StackError(f"{path}: expected a JSON object, found a {type(config).__name__}", hint=_FETCH)
    return config


def _parse_config(folder: Path, raw: dict[str, Any]) -> _Config:
    try:
        config = _Config.model_validate(raw)
        for expression in config.expressions():
            re.compile(expression)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StackError(f"{folder / CONFIG_FILE}: {where}: {first['msg']}", hint=_FETCH) from error
    except (re.error, OverflowError, RecursionError) as error:
        raise StackError(f"{folder / CONFIG_FILE}: not a regular expression: {error}", hint=_FETCH) from error
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    if path.is_file():
        return read_tensors(path, hint=_FETCH)
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickled:
        raise StackError(
            f"{folder}: its weights are pickled ({pickled[0]}), and loading a pickle runs whatever it holds",
            hint=f"where you trust them, load them with PEFT and save_pretrained again: it writes {WEIGHTS_FILE}",
        )
    raise StackError(f"{folder}: no {WEIGHTS_FILE}", hint=_FETCH)


def _pair(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Factors]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise _refusal(folder, why_key_refused(key))
        if tensor.dtype not in _FLOATS or tensor.dim() != 2:
            raise StackError(f"{folder}: {key} is {_describe(tensor)}, expected a matrix of floats", hint=_FETCH)
        found.setdefault(match["path"], {})[match["factor"]] = tensor.float()
    for path, pair in found.items():
        if pair.keys() != {"A", "B"} or not 0 < len(pair["A"]) == pair["B"].shape[1]:
            shapes = ", ".join(f"lora_{factor} {tuple(tensor.shape)}" for factor, tensor in sorted(pair.items()))
            raise StackError(f"{folder}: {path} has {shapes}, which is no pair of factors", hint=_FETCH)
    if not found:
        raise StackError(f"{folder / WEIGHTS_FILE}: holds no weights", hint=_FETCH)
    return {path: Factors(pair["A"], pair["B"]) for path, pair in found.items()}


def _check_fit(folder: Path, pairs: Adapter, maps: BaseMaps, config: _Config) -> None:
    named = f"; it names its base as {config.base_model_name_or_path}" if config.base_model_name_or_path else ""
    for path, pair in pairs.items():
        shape = maps.shapes.get(path)
        if shape is None and path in maps.modules:
            raise _refusal(folder, f"it adapts {path}, which is no linear map inside the base (embeddings, head, norm)")
        if shape is None:
            raise StackError(f"{folder}: this base has no linear map {path}{named}", hint="import it on its own base")
        if shape != (found := (pair.B.shape[0], pair.A.shape[1])):
            here, there = (f"{d_in} to {d_out}" for d_out, d_in in (shape, found))
            raise StackError(
                f"{folder}: {path} is {here} wide in this base, {there} in the adapter{named}",
                hint="import it on its own base",
            )


def _check_targets(folder: Path, pairs: Adapter, maps: BaseMaps, config: _Config) -> None:
    if config.target_modules is None:
        return
    targets = {path for path in maps.shapes if config.targets(path)}
    if missing := targets - pairs.keys():
        raise StackError(f"{folder}: no weights for {_list(missing)}, which {CONFIG_FILE} targets", hint=_FETCH)
    if extra := pairs.keys() - targets:
        raise StackError(f"{folder}: weights for {_list(extra)}, which {CONFIG_FILE} does not target", hint=_FETCH)


def _by_pattern(patterns: Mapping[str, _Number], path: str, default: _Number) -> _Number:
    for pattern, value in patterns.items():
        if re.match(_anchored(pattern), path):
            return value
    return default


def _anchored(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _matches(names: list[str] | str, path: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return path in names or any(path.endswith(f".{name}") for name in names)


def _list(paths: set[str]) -> str:
    shown = ", ".join(sorted(paths)[:_SHOWN])
    return shown if len(paths) <= _SHOWN else f"{shown} and {len(paths) - _SHOWN} more"


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _refusal(folder: Path, reason: str) -> StackError:
    converted = "PEFT converts PiSSA, OLoRA and CorDA: save_pretrained with path_initial_model_for_weight_conversion"
    return StackError(
        f"{folder}: refused: {reason}; only a plain low-rank addition to an unchanged base can be stacked",
        hint=converted if "started by" in reason else "train a plain LoRA",
    )
