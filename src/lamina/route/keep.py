"""Routers on disk, under ``.lamina/routers/``, and what each branch has decided about its own.

    routers/<hex>.json          a router's record, named by its digest
    routers/<hex>.safetensors   its tensors, named by theirs
    routers/branches/<branch>   which router a branch has, and whether requests go through it

A router is no part of a stack: it follows from the stack's rows and can be trained again, so it is neither pushed nor
reached by refs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lamina.errors import StackError
from lamina.refs import Digest
from lamina.route.classifier import Classifier
from lamina.route.router import Router, RouterRecord
from lamina.stack.store import Store, disk_errors, write_atomically

__all__ = ["Decision", "read_decision", "read_router", "tensor_bytes", "write_decision", "write_router"]

_HINT = "train it again: `lamina route`"
_TENSORS = ("axes", "gains", "means")


class Decision(BaseModel):
    """What a branch has decided.

    Attributes:
        router: digest of its router.
        enabled: whether requests go through it.
        helps: what its evaluation said.
        verdict: the same in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    router: str
    enabled: bool
    helps: bool
    verdict: str


def tensor_bytes(classifier: Classifier) -> bytes:
    """Return a classifier's tensors as a safetensors file."""
    return save({name: np.ascontiguousarray(getattr(classifier, name)) for name in _TENSORS})


def write_router(store: Store, router: Router) -> str:
    """Keep a router whose record names its tensors, and return its digest.

    Raises:
        MachineError: if the disk is full or read-only.
    """
    weights, record = tensor_bytes(router.classifier), router.record.model_dump_json().encode()
    digest = Digest.of_bytes(record)
    folder = _folder(store)
    with disk_errors(folder):
        (folder / "branches").mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{Digest.of_bytes(weights).hex}.safetensors", weights)
        write_atomically(folder / f"{digest.hex}.json", record)
    return str(digest)


def read_router(store: Store, digest: str) -> Router:
    """Return a router, checked against its digests.

    Raises:
        StackError: if it is missing or damaged.
    """
    try:
        record = RouterRecord.model_validate_json(_read(store, digest, "json"))
        tensors = load(_read(store, record.weights, "safetensors"))
        classifier = Classifier(**{name: tensors[name] for name in _TENSORS}, precision=record.precision)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StackError(f"router {digest[7:19]} is missing or damaged", hint=_HINT) from error
    return Router(record, classifier)


def read_decision(store: Store, branch: str) -> Decision | None:
    """Return what ``branch`` has decided, None if it has no router.

    Raises:
        StackError: if the decision is damaged.
    """
    path = _folder(store) / "branches" / branch
    if not path.exists():
        return None
    try:
        return Decision.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StackError(f"{path}: damaged", hint=_HINT) from error


def write_decision(store: Store, branch: str, decision: Decision) -> None:
    """Record what ``branch`` has decided.

    Raises:
        MachineError: if the disk is full or read-only.
    """
    path = _folder(store) / "branches" / branch
    with disk_errors(path):
        write_atomically(path, decision.model_dump_json().encode())


def _folder(store: Store) -> Path:
    return store.root / "routers"


def _read(store: Store, digest: str, kind: str) -> bytes:
    content = (_folder(store) / f"{Digest.parse(digest).hex}.{kind}").read_bytes()
    if hashlib.sha256(content).hexdigest() != Digest.parse(digest).hex:
        raise ValueError(digest)
    return content
