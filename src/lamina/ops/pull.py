"""``lamina pull``: a stack out of a registry. Refs move only once everything is here and has been checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lamina.config import CONFIG_NAME, load_settings
from lamina.errors import StackError, UsageError
from lamina.records import Progress
from lamina.refs import Digest, check_name
from lamina.share.artifact import Artifact
from lamina.share.meter import byte_stage
from lamina.share.places import note_places
from lamina.share.reference import Reference
from lamina.share.registry import Registry
from lamina.stack.layers import name_of, read_layer, read_stack, stack_digest, write_layer, write_stack
from lamina.stack.lineage import get_ref, set_ref
from lamina.stack.manifest import LayerConfig, StackConfig
from lamina.stack.order import check_parents
from lamina.stack.store import Store

__all__ = ["Pulled", "pull"]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did.

    Attributes:
        reference: where the stack came from.
        stack: what it is.
        digest: of the manifest.
        ref: which ref holds it now.
        moved: whether the ref was made or moved for it.
        received_bytes: size of the blobs that the store lacked.
        received: how many those were.
    """

    reference: Reference
    stack: StackConfig
    digest: str
    ref: str
    moved: bool
    received_bytes: int
    received: int


def pull(
    start: Path,
    target: str,
    *,
    progress: Progress,
    ref: str | None = None,
    force: bool = False,
    plain_http: bool = False,
) -> Pulled:
    """Bring a stack into the project and point a ref at it.

    Args:
        start: a folder in the project.
        target: ``REGISTRY/NAME:TAG`` or ``REGISTRY/NAME@DIGEST``.
        progress: is told how it goes.
        ref: which ref; None means the one named like the tag.
        force: move the ref also where it holds something else.
        plain_http: without TLS, as on loopback.

    Raises:
        UsageError: if ``target`` cannot be read or its tag cannot name a ref.
        StackError: if there is no such stack, it is damaged, on another base, or the ref holds something else.
        MachineError: if the registry cannot be reached or the disk is full.
    """
    reference = Reference.parse(target)
    name = _ref_name(reference, ref)
    store = Store.find(start)
    base = load_settings(store.project / CONFIG_NAME).base.digest
    registry = Registry(reference, plain_http=plain_http)
    with store.lock("pull.lock"):
        artifact = Artifact(store, registry)
        stack = _fetch_stack(store, artifact, base)
        held = get_ref(store, name)
        if not force:
            _check_forward(store, name, held, stack)
        layers = _fetch_layers(store, artifact, stack)
        _fetch_blobs(artifact, layers, progress)
        for layer in layers.values():
            write_layer(store, layer)
        digest = write_stack(store, stack)
        if held != digest:
            set_ref(store, name, digest, why=f"pull {reference}", expect=held)
        note_places(store, reference, [item.digest for item in (artifact.manifest.config, *artifact.manifest.layers)])
    return Pulled(
        reference=reference,
        stack=stack,
        digest=artifact.digest,
        ref=name,
        moved=held != digest,
        received_bytes=sum(artifact.received),
        received=len(artifact.received),
    )


def _ref_name(reference: Reference, ref: str | None) -> str:
    if ref is not None:
        return check_name(ref, what="ref")
    try:
        return check_name(reference.tag, what="ref")
    except UsageError as error:
        raise UsageError(error.message, hint=f"name the ref: lamina pull {reference} --as NAME") from error


def _fetch_stack(store: Store, artifact: Artifact, base: str | None) -> StackConfig:
    digest = artifact.manifest.config.digest
    artifact.fetch_config(digest, "the stack's configuration")
    stack = read_stack(store, digest)
    _check_spelling(digest, stack)
    if base is not None and stack.base.digest != base:
        raise StackError(
            f"the stack is on base {stack.base.name} ({stack.base.digest[7:19]}), this project's is {base[7:19]}",
            hint=f"pull it into a project on that base: lamina init --base {stack.base.source}",
        )
    return stack


def _check_forward(store: Store, name: str, held: str | None, stack: StackConfig) -> None:
    """Check that a ref which is here already only gains layers."""
    if held is None or held == stack_digest(stack):
        return
    here = read_stack(store, held)
    if here.base.digest == stack.base.digest and stack.layers[: len(here.layers)] == here.layers:
        return
    raise StackError(
        f"'{name}' is {name_of(here)} here ({held[7:19]}), and the pulled stack {name_of(stack)} "
        f"({stack_digest(stack)[7:19]}) does not continue it",
        hint=f"pull it beside: --as OTHER; or put it in its place: --force (`lamina undo {name}` takes that back)",
    )


def _fetch_layers(store: Store, artifact: Artifact, stack: StackConfig) -> dict[str, LayerConfig]:
    layers: dict[str, LayerConfig] = {}
    for entry in stack.layers:
        artifact.fetch_config(entry.layer, f"the configuration of layer '{entry.name}'")
        layer = layers[entry.layer] = read_layer(store, entry.layer)
        _check_spelling(entry.layer, layer)
        for name in (entry.name, layer.name):
            try:
                check_name(name)
            except UsageError as error:
                raise StackError(f"the pulled stack cannot be used: {error.message}", hint="push it again") from error
        artifact.require(layer.weights, f"the weights of layer '{layer.name}'")
        artifact.require(layer.rows, f"the rows that layer '{layer.name}' has seen")
    check_parents(store, stack, stack.base)
    return layers


def _fetch_blobs(artifact: Artifact, layers: dict[str, LayerConfig], progress: Progress) -> None:
    """Fetch what the store lacks. Rows that their owner kept are not in the manifest."""
    wanted = [
        digest
        for layer in layers.values()
        for digest in (layer.parent, layer.rows, layer.replay, layer.heldout, layer.weights)
        if digest is not None
    ]
    missing = artifact.missing(wanted)
    if missing:
        artifact.check_space(missing)
        with byte_stage(progress, "pull", sum(item.size for item in missing)) as tick:
            for item in missing:
                artifact.fetch(item, tick)


def _check_spelling(digest: str, config: StackConfig | LayerConfig) -> None:
    """Check that a configuration is spelled as we spell it: written again, it would else be another one."""
    if str(Digest.of_bytes(config.canonical())) != digest:
        raise StackError(
            f"{digest[7:19]} is not spelled as this version of lamina spells it",
            hint="upgrade lamina if a newer version pushed it, else push it again",
        )
