"""Which repository of a registry is known to hold a blob, so that another of its repositories can take it from there.

Kept in ``.lamina/cache/``: a wrong or lost note costs an upload, nothing else.

Source: OCI distribution-spec 1.1, "Mounting a blob from another repository".
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from lamina.share.reference import Reference
from lamina.stack.store import Store, disk_errors, write_atomically

__all__ = ["note_places", "read_places"]

_FILE = "registries.json"


def read_places(store: Store, reference: Reference) -> dict[str, str]:
    """Return, by digest, which other repository of the reference's registry holds a blob."""
    return {
        digest: repository
        for digest, repository in _read(store).get(reference.registry, {}).items()
        if repository != reference.repository
    }


def note_places(store: Store, reference: Reference, digests: Iterable[str]) -> None:
    """Note that the reference's repository holds these blobs."""
    known = _read(store)
    known.setdefault(reference.registry, {}).update(dict.fromkeys(digests, reference.repository))
    folder = store.root / "cache"
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
        write_atomically(folder / _FILE, json.dumps(known, sort_keys=True).encode())


def _read(store: Store) -> dict[str, dict[str, str]]:
    try:
        found = json.loads((store.root / "cache" / _FILE).read_bytes())
        return {str(registry): dict(places) for registry, places in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
