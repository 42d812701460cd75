"""``lamina import``: a PEFT adapter folder from elsewhere becomes a layer on top of the branch, through the gate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from lamina import __version__
from lamina.errors import StackError
from lamina.export.card import read_licence
from lamina.export.peft import CONFIG_FILE, WEIGHTS_FILE, ForeignAdapter, maps_of, read_peft
from lamina.lora.adapter import put_adapter
from lamina.model.base import load_skeleton
from lamina.model.hub import is_same_base
from lamina.ops.admit import Admission, admit, find_place
from lamina.ops.project import Project
from lamina.refs import Digest
from lamina.stack.layers import list_layers, write_layer, write_stack
from lamina.stack.manifest import ROWS_TYPE, Cost, LayerConfig, Origin, StackConfig

__all__ = ["import_layer"]

_METHOD = "import"


def import_layer(
    project: Project,
    folder: Path,
    *,
    name: str,
    licence: str | None = None,
    guards: Sequence[str] = (),
    accept: bool = False,
) -> Admission:
    """Put the adapter in ``folder`` on top of the current branch and move the branch if the gate lets it in.

    The layer's parent is the bare base, which is what a foreign adapter was trained on; on a stack that has layers
    already it is therefore marked as moved. A folder that was imported before is the same layer again.

    Args:
        project: the open project.
        folder: adapter_config.json and adapter_model.safetensors.
        name: the layer's name, and the suite that it must improve if there is one.
        licence: what holds if the folder's README.md states none.
        guards: suites that must not get worse, besides those marked ``guard`` in the settings.
        accept: let the layer in whatever the gate says; the branch's log records it.

    Raises:
        StackError: if the folder is no plain LoRA or does not fit the base, or the branch moved meanwhile.
        UsageError: if a guard is no suite.
    """
    if not folder.is_dir():
        raise StackError(f"{folder}: no such folder", hint="an adapter on the hub: `hf download OWNER/NAME` fetches it")
    place = find_place(project, name, guards)
    adapter = read_peft(folder, maps_of(load_skeleton(project.base)))
    _say_base(project, folder, adapter.base)
    stated = read_licence(folder, project.progress)
    if stated and licence and stated != licence:
        project.progress.note(f"{folder / 'README.md'} states the licence {stated}; --licence {licence} is left out")
    layer = _keep(project, folder, adapter, name, stated or licence)
    return admit(project, layer, place, why=f"import {name}", accept=accept)


def _say_base(project: Project, folder: Path, named: str | None) -> None:
    pin = project.base.pin
    if named is None:
        project.progress.note(f"warning: {folder} does not say which base it was trained on; only shapes were checked")
    elif not is_same_base(pin, named):
        project.progress.note(
            f"warning: {folder} was trained on {named}, this base is {pin.name}; only shapes could be checked, "
            "so measure it with `lamina eval`"
        )


def _keep(project: Project, folder: Path, adapter: ForeignAdapter, name: str, licence: str | None) -> str:
    store = project.store
    weights = put_adapter(store, adapter.factors)
    for digest, known in list_layers(store):
        if (known.name, known.weights, known.licence) == (name, weights, licence) and _is_import(known):
            project.progress.note(f"Layer {name} ({digest[7:19]}) was imported before; judging it again")
            return digest
    files = {file: str(Digest.of_file(folder / file)) for file in (CONFIG_FILE, WEIGHTS_FILE)}
    notes = {
        "folder": folder.resolve().name,
        "files": files,
        "peft_type": adapter.peft_type,
        "base_model_name_or_path": adapter.base,
    }
    return write_layer(
        store,
        LayerConfig(
            name=name,
            base=project.base.pin,
            parent=write_stack(store, StackConfig(base=project.base.pin, layers=())),
            weights=weights,
            rank=max(factors.rank for factors in adapter.factors.values()),
            modules=tuple(adapter.factors),
            recipe={},
            recipe_origins={},
            data=(),
            rows=store.put_bytes(b"", ROWS_TYPE).digest,
            replay=None,
            heldout=None,
            cost=Cost(tokens=0, trained_tokens=0, seconds=0.0, steps=0),
            heldout_loss_before=None,
            heldout_loss_after=None,
            machine={},  # whose it was is not known
            versions={"lamina": __version__},
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            origin=Origin(method=_METHOD, notes=notes),
            licence=licence,
        ),
    )


def _is_import(layer: LayerConfig) -> bool:
    return layer.origin is not None and layer.origin.method == _METHOD
