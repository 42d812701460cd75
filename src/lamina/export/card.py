"""The model card of a stack on the Hugging Face hub: only what the records say, and that something is missing if it is.

Source: huggingface.co/docs/hub/model-cards and repositories-licenses, for the front matter's keys and licence ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData, metadata_load
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from lamina.records import Progress, Score
from lamina.stack.manifest import BasePin, LayerConfig, StackEntry

__all__ = ["Card", "ScoreLine", "read_licence", "render_card"]


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One suite on the card: what the bare base and the stack scored, None where that was not measured."""

    suite: str
    scorer: str
    guard: bool
    items: int
    base: Score | None
    stack: Score | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a card tells.

    Attributes:
        target: OWNER/NAME on the hub, or a folder's name.
        base: the base's pin.
        hub_id: the base's id on the hub, None if it is not known to have one.
        stack_id: the stack's digest.
        layers: the stack's entries with their configs, bottom first.
        rank: the rank of the adapter that holds all of them.
        scores: the project's suites.
        source_note: what differs between the base and the hub's model of that id, empty if nothing is known to.
    """

    target: str
    base: BasePin
    hub_id: str | None
    stack_id: str
    layers: Sequence[tuple[StackEntry, LayerConfig]]
    rank: int
    scores: Sequence[ScoreLine]
    source_note: str = ""


def render_card(card: Card) -> str:
    """Return the card as Markdown with YAML front matter; a field that the template lacks is an error, never a gap."""
    environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    environment.filters |= {"cell": _cell, "score": _score}
    template = environment.from_string(_read_own("card.md.j2"))
    return template.render(
        front_matter=_front_matter(card),
        title=_cell(card.target.rpartition("/")[2]),
        target=card.target,
        base=card.base,
        hub_id=card.hub_id,
        stack_id=card.stack_id,
        layers=card.layers,
        rank=card.rank,
        scores=card.scores,
        limitations=_limitations(card),
        made=_made,
        loss=_loss,
        recipe=_recipe,
    )


def read_licence(folder: Path, progress: Progress) -> str | None:
    """Return the licence that a folder's README.md states in its front matter, None if there is none to be read."""
    path = folder / "README.md"
    if not path.exists():
        return None
    try:
        stated = metadata_load(path) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).strip().partition("\n")[0]
        progress.note(f"{path}: its front matter cannot be read ({reason}), so no licence is taken from it")
        return None
    licence = stated.get("license")
    if licence == "other":
        licence = stated.get("license_name", licence)
    return licence.strip() or None if isinstance(licence, str) else None


def _front_matter(card: Card) -> str:
    fields: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "lamina"]}
    if card.hub_id:
        fields |= {"base_model": card.hub_id, "base_model_relation": "adapter"}
    licence = _common_licence(card)
    if licence and licence.lower() in _read_own("hub_licences.txt").split():
        fields["license"] = licence.lower()
    elif licence:
        fields |= {"license": "other", "license_name": licence}
    return str(ModelCardData(**fields).to_yaml())


def _read_own(name: str) -> str:
    return files("lamina.export").joinpath(name).read_text("utf-8")


def _common_licence(card: Card) -> str | None:
    stated = {layer.licence for _, layer in card.layers}
    return stated.pop() if len(stated) == 1 else None


def _limitations(card: Card) -> list[str]:
    lines = [
        "Scores hold for the suites above and say nothing about anything else."
        if any(line.stack for line in card.scores)
        else "Nobody has measured what this adapter does; treat its answers accordingly."
    ]
    if unmeasured := [line.suite for line in card.scores if line.stack is None]:
        lines.append(f"Not measured on: {', '.join(map(_cell, unmeasured))}.")
    if moved := [entry.name for entry, _ in card.layers if entry.moved]:
        lines.append(f"Not on the stack they were trained on: {', '.join(map(_cell, moved))}.")
    if not card.hub_id:
        lines.append("The base is known by its content digest alone; other weights of the same shape load, and differ.")
    if card.source_note:
        lines.append(card.source_note)
    if card.base.quantise != "none":
        lines.append(f"Trained on the base held as {card.base.quantise}; on unquantised weights answers differ.")
    if _common_licence(card) is None:
        lines.append("No one licence is stated for the whole: ask the owner before use.")
    return lines


def _made(layer: LayerConfig) -> str:
    how = "trained" if layer.origin is None else {"import": "imported from PEFT"}.get(layer.origin.method)
    return f"{how or (layer.origin.method if layer.origin else '')} {layer.created[:10]}"


def _loss(layer: LayerConfig) -> str:
    before, after = layer.heldout_loss_before, layer.heldout_loss_after
    return "not measured" if before is None or after is None else f"{before:.3f} → {after:.3f}"


def _recipe(layer: LayerConfig) -> str:
    return ", ".join(f"{key} {value}" for key, value in layer.recipe.items()) or "not recorded"


def _score(score: Score | None) -> str:
    if score is None:
        return "not measured"
    unscored = f", {score.unscored} items unscored" if score.unscored else ""
    return f"{score.mean:.1%} ({score.low:.1%} to {score.high:.1%}){unscored}".replace("%", " %")


def _cell(text: object) -> str:
    """Return ``text`` so that Markdown and HTML show it as it is, also inside a table."""
    return re.sub(r"([\\`*_\[\]<>|&#!])", r"\\\1", " ".join(str(text).split()))
