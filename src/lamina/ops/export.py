"""``lamina export``: a stack in the form that other programs load, checked against the stack first (law 10)."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer

from lamina.data.render import Renderer
from lamina.errors import MachineError, StackError, UsageError
from lamina.export.gguf import WeightKind, base_gguf, context_of, write_adapter_gguf
from lamina.export.ollama import chatml_system, modelfile
from lamina.export.peft import maps_of
from lamina.export.vllm import rank_of, write_vllm
from lamina.lora.adapter import Factors, combine
from lamina.lora.surgery import attach, detach
from lamina.model.base import LoadedBase, load_base, load_skeleton
from lamina.model.hub import hub_id
from lamina.model.machine import require_disk
from lamina.ops.fold import FIXED_TEXTS, fold_stack
from lamina.ops.project import Project
from lamina.ops.publish import write_files
from lamina.ops.rows import heldout_sample, render_rows
from lamina.records import Conversation
from lamina.serve.engine import Layers
from lamina.serve.llama_look import look_ahead, opened
from lamina.stack.layers import name_of, read_layer, stack_digest
from lamina.stack.manifest import StackConfig
from lamina.stack.order import check_parents
from lamina.stack.store import disk_errors, scratch_folder, write_atomically

__all__ = ["Agreement", "ExportForm", "Exported", "export_stack"]

ExportForm = Literal["gguf", "ollama", "peft", "safetensors", "vllm"]
_BASE_FILE = "base.gguf"
_STACK_FILE = "stack.gguf"
_ROWS = 8
_POSITIONS = 6
_LIKELIEST = 50
_MOST_CONTEXT = 512
# What float16 weights and activations were seen to take is a hundredth of this.
_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a file's log-probabilities lie from the stack's in float32, in nats.

    Attributes:
        positions: places of the texts that were looked at.
        mean_error, max_error: the largest difference among the 50 likeliest tokens of a place; mean and maximum of it.
        top1: share of places with the same likeliest token.
        without: the mean error without the adapter, that is, of the bare base.
    """

    positions: int
    mean_error: float
    max_error: float
    top1: float
    without: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: the stack, its files with their sizes in bytes, and what was measured.

    ``agreement`` is of GGUF files; a PEFT folder was read back equal, and a folded one tells of its own drift.
    """

    stack: StackConfig
    form: ExportForm
    folder: Path
    files: Mapping[str, int]
    agreement: Agreement | None = None
    note: str = ""


def export_stack(
    project: Project, expression: str | None, form: ExportForm, out: Path, *, weights: WeightKind = "f16"
) -> Exported:
    """Write a stack for other programs into ``out``, whole and checked or not at all.

    Args:
        project: the open project.
        expression: the stack; None means the current branch.
        form: for whom.
        out: the folder, which must not exist yet.
        weights: how GGUF holds the base.

    Raises:
        UsageError: if ``out`` exists, the stack has no layers, or ``weights`` does not belong to ``form``.
        StackError: if the base or the stack cannot be written in this form, or the file does not compute the same.
        MachineError: if the disk is too full, or xllamacpp is missing for the check.
    """
    stack = project.stack(expression)
    if out.exists():
        raise UsageError(f"--out {out}: exists already, and is never overwritten", hint="name a folder that does not")
    if not stack.layers:
        raise UsageError(f"{name_of(stack)}: no layers to export", hint="`lamina log` lists them")
    if weights != "f16" and form not in ("gguf", "ollama"):
        raise UsageError(f"--weights {weights} is of GGUF files, not of --to {form}", hint="leave --weights out")
    check_parents(project.store, stack, project.base.pin)
    if form == "safetensors":
        folded = fold_stack(project, expression, out)
        drift = f"logits moved by {folded.logits.mean_error:.2g} on average, {folded.logits.agreement:.2%} same choice"
        return Exported(stack=stack, form=form, folder=out, files=_sizes(out), note=drift)
    agreement, note = None, ""
    with disk_errors(out), scratch_folder(out.absolute().parent) as scratch:
        if form == "peft":
            write_files(project, stack, out.name, scratch)
        elif form == "vllm":
            note = _write_vllm(project, stack, scratch)
        else:
            agreement, note = _write_gguf(project, stack, form, scratch, weights)
        files = _sizes(scratch)
        scratch.chmod(0o755)
        scratch.rename(out)
    return Exported(stack=stack, form=form, folder=out, files=files, agreement=agreement, note=note)


def _write_vllm(project: Project, stack: StackConfig, folder: Path) -> str:
    """Write the whole stack as one PEFT adapter of a rank that vLLM has kernels for; zeros change nothing."""
    whole = _whole(project, stack)
    pin = project.base.pin
    maps = maps_of(load_skeleton(project.base))
    rank = write_vllm(whole, folder, name=name_of(stack), base=hub_id(pin) or pin.name, maps=maps)
    write_atomically(folder / "chat_template.jinja", project.base.template.encode())
    base = hub_id(pin) or str(project.base.folder)
    command = f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules stack=."
    write_atomically(folder / "README.md", _readme(stack, f"Run, in this folder:\n\n    {command}\n").encode())
    return f"one adapter of rank {rank}, {rank_of(whole)} of it used; it was read back equal"


def _write_gguf(
    project: Project, stack: StackConfig, form: ExportForm, folder: Path, weights: WeightKind
) -> tuple[Agreement, str]:
    if importlib.util.find_spec("xllamacpp") is None:
        raise MachineError(
            "a GGUF file is checked with llama.cpp before it is written, and xllamacpp is not installed",
            hint="pip install xllamacpp",
        )
    base, note = base_gguf(project.base, project.progress, weights=weights), ""
    size = base.stat().st_size
    require_disk(folder, size, purpose="for the base as GGUF")
    write_adapter_gguf(_whole(project, stack), project.base, folder / _STACK_FILE)
    agreement = _measure(project, stack, base, folder / _STACK_FILE)
    _check(stack, agreement, weights)
    with project.progress.stage("copy of the base", total=size, unit="B") as tick:
        _copy(base, folder / _BASE_FILE, tick)
    context = context_of(project.base)
    how = f"llama-server -m {_BASE_FILE} --lora {_STACK_FILE} -c {context} --jinja"
    if form == "ollama":
        tokenizer = AutoTokenizer.from_pretrained(project.base.folder)
        renderer = Renderer(tokenizer, project.base.template)
        system = chatml_system(lambda messages: str(tokenizer.decode(renderer.prompt(messages))))
        text = modelfile(base=_BASE_FILE, adapter=_STACK_FILE, system=system, context=context)
        write_atomically(folder / "Modelfile", text.encode())
        how = "ollama create stack -f Modelfile\n    ollama run stack"
        if system is None:
            note = "the chat template is not ChatML: check that Ollama knows it, or write a TEMPLATE into the Modelfile"
    write_atomically(folder / "README.md", _readme(stack, f"Run, in this folder:\n\n    {how}\n").encode())
    return agreement, note


def _measure(project: Project, stack: StackConfig, base: Path, adapter: Path) -> Agreement:
    layers = [read_layer(project.store, entry.layer) for entry in stack.layers]
    heldout = heldout_sample(project, layers, _ROWS)[:_ROWS]
    context = min(project.loaded.context, context_of(project.base), _MOST_CONTEXT)
    rows = render_rows(project, heldout or [Conversation(text=text) for text in FIXED_TEXTS], project.loaded.context)
    texts = [list(row.ids[:context]) for row in rows]
    project.release()
    exact = load_base(project.base, dtype=torch.float32)
    attach(exact.model, project.adapters(stack.layers), [entry.scale for entry in stack.layers])
    places = [_places(len(ids)) for ids in texts]
    wanted = [_log_probs(exact, ids, at) for ids, at in zip(texts, places, strict=True)]
    detach(exact.model)
    stop_id, likeliest = min(exact.stop_ids), min(_LIKELIEST, exact.head.weight.shape[0])

    async def look(active: Layers) -> list[dict[int, float]]:
        threads = len(os.sched_getaffinity(0))
        async with opened(base, {"stack": adapter}, context=context, threads=threads) as worker:
            found = []
            with project.progress.stage("the GGUF file", total=len(texts), unit="texts") as tick:
                for ids, at in zip(texts, places, strict=True):
                    found += await look_ahead(worker, active, ids, at, most=likeliest, stop_id=stop_id)
                    tick(1)
        return found

    with_it, without = asyncio.run(look((("stack", 1.0),))), asyncio.run(look(()))
    return _agree(torch.cat(wanted), with_it, without)


def _agree(wanted: Tensor, with_it: list[dict[int, float]], without: list[dict[int, float]]) -> Agreement:
    errors, bare = ([_error(*pair) for pair in zip(wanted, found, strict=True)] for found in (with_it, without))
    same = [int(row.argmax()) == max(found, key=found.__getitem__) for row, found in zip(wanted, with_it, strict=True)]
    return Agreement(len(errors), statistics.fmean(errors), max(errors), sum(same) / len(same), statistics.fmean(bare))


def _error(wanted: Tensor, found: dict[int, float]) -> float:
    return max(abs(float(wanted[token]) - value) for token, value in found.items())


def _check(stack: StackConfig, agreement: Agreement, weights: WeightKind) -> None:
    if weights != "f16":
        return  # what quantising takes is told, and is for whoever asked for it to judge
    if agreement.mean_error > _TOLERANCE or agreement.mean_error >= agreement.without > _TOLERANCE:
        raise StackError(
            f"{name_of(stack)}: the GGUF file does not compute what the stack does: log-probabilities are "
            f"{agreement.mean_error:.2g} away on average, {agreement.without:.2g} without the layers",
            hint="report this with the base's name; --to peft and --to safetensors are exact",
        )


@torch.no_grad()
def _log_probs(loaded: LoadedBase, ids: list[int], places: list[int]) -> Tensor:
    """Return the log-probabilities, (places, vocabulary), behind the first ``place`` ids of a text."""
    inputs = torch.tensor([ids], device=loaded.device)
    states = loaded.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state[0]
    return torch.log_softmax(loaded.head.logits(states[[place - 1 for place in places]]).float(), -1).cpu()


def _places(length: int) -> list[int]:
    count = min(_POSITIONS, length)
    return [(place + 1) * length // count for place in range(count)]


def _whole(project: Project, stack: StackConfig) -> dict[str, Factors]:
    return combine(project.adapters(stack.layers), [entry.scale for entry in stack.layers])


def _copy(source: Path, target: Path, tick: Callable[[int], None]) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        while block := read.read(2**24):
            write.write(block)
            tick(len(block))


def _readme(stack: StackConfig, how: str) -> str:
    layers = "".join(f"- {entry.name}, scale {entry.scale:g}, `{entry.layer}`\n" for entry in stack.layers)
    return f"# {name_of(stack)}\n\nStack `{stack_digest(stack)}` on {stack.base.name}:\n\n{layers}\n{how}"


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
