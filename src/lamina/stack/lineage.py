"""Refs and their history: branches that move, tags that do not, and HEAD, the branch one is on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Literal

from lamina.errors import StackError
from lamina.refs import check_name, did_you_mean
from lamina.stack.layers import id_of
from lamina.stack.manifest import REF_KEY, STACK_TYPE, TAG_KEY, Descriptor, Index
from lamina.stack.store import Store, disk_errors, write_atomically

__all__ = [
    "ANY",
    "MAIN",
    "OVERRULED",
    "RefMove",
    "delete_ref",
    "get_current",
    "get_head",
    "get_ref",
    "history",
    "list_refs",
    "list_tags",
    "set_head",
    "set_ref",
    "undone_to",
]

MAIN = "main"
# What a branch's log says of a layer that was let in all the same.
OVERRULED = "accepted against the gate"


class _Any(Enum):
    ANY = "wherever the ref points now"


ANY: Literal[_Any.ANY] = _Any.ANY


@dataclass(frozen=True, slots=True)
class RefMove:
    """One move of a ref: from where (empty at its birth), to where, when (ISO, UTC) and why.

    ``undo`` marks a move that took back an earlier one.
    """

    old: str
    new: str
    when: str
    why: str
    undo: bool = False


def set_ref(
    store: Store,
    name: str,
    digest: str,
    *,
    why: str,
    expect: str | _Any | None = ANY,
    tag: bool = False,
    undo: bool = False,
) -> None:
    """Point the ref ``name`` at the stack ``digest``, and note it in the ref's log.

    Args:
        store: the store.
        name: the ref.
        digest: the stack.
        why: what is noted in the log.
        expect: where the ref must still point (None at its birth): a slow command never undoes a quick one. ``ANY``
            moves it from wherever it is.
        tag: whether the new ref is one that never moves.
        undo: whether this takes back the ref's last move.

    Raises:
        UsageError: if ``name`` cannot name a ref.
        StackError: if the ref is a tag or has moved meanwhile, or the stack is not in the store.
    """
    check_name(name, what="ref")
    with store.lock():
        index = store.read_index()
        holder = _holder(index, name)
        now = None if holder is None else id_of(store, holder)
        if expect is not ANY and now != expect:
            raise StackError(
                f"ref '{name}' moved meanwhile: expected {_short(expect)}, found {_short(now)}",
                hint="look at `lamina log`, then run the command again",
            )
        if holder is not None and TAG_KEY in holder.annotations:
            raise StackError(f"'{name}' is a tag, and tags do not move", hint=f"`lamina tag --delete {name}` frees it")
        stacks = [item for item in index.manifests if item.artifactType == STACK_TYPE]
        target = next((item for item in stacks if id_of(store, item) == digest), None)
        if target is None:
            raise StackError(f"stack {digest[7:19]} is not in {store.root}", hint="pull or train it first")
        # One descriptor carries one ref, so a stack with two refs is listed twice, as the OCI layout has it.
        named = _without_name(target)
        named = named.model_copy(
            update={"annotations": named.annotations | {REF_KEY: name} | ({TAG_KEY: "true"} if tag else {})}
        )
        others = [
            item for item in _without_ref(index, name) if item.digest != target.digest or REF_KEY in item.annotations
        ]
        entry = {"old": now or "", "new": digest, "when": _now(), "why": why}
        store.append_log(name, entry | ({"undo": True} if undo else {}))
        store.write_index(index.model_copy(update={"manifests": (*others, named)}))


def delete_ref(store: Store, name: str) -> str:
    """Forget a ref and its log, and return the stack that it held.

    Raises:
        StackError: if there is no such ref, or it is the current branch.
    """
    check_name(name, what="ref")
    if name == get_head(store):
        raise StackError(f"'{name}' is the current branch", hint="`lamina switch` to another one first")
    with store.lock():
        index = store.read_index()
        holder = _holder(index, name)
        if holder is None:
            raise _no_ref(name, list_refs(store))
        store.write_index(index.model_copy(update={"manifests": tuple(_without_ref(index, name))}))
        (store.root / "logs" / name).unlink(missing_ok=True)
    return id_of(store, holder)


def get_ref(store: Store, name: str) -> str | None:
    """Return the digest of the stack that the ref holds, or None."""
    return list_refs(store).get(name)


def list_refs(store: Store) -> dict[str, str]:
    """Return every ref, branch or tag, and the digest of the stack it holds."""
    items = store.read_index().manifests
    return {item.annotations[REF_KEY]: id_of(store, item) for item in items if REF_KEY in item.annotations}


def list_tags(store: Store) -> set[str]:
    """Return the refs that never move."""
    return {item.annotations[REF_KEY] for item in store.read_index().manifests if TAG_KEY in item.annotations}


def get_head(store: Store) -> str:
    """Return the current branch: the one that commands read and move when none is named."""
    path = store.root / "HEAD"
    return path.read_text("utf-8").strip() if path.exists() else MAIN


def set_head(store: Store, name: str) -> None:
    """Make ``name`` the current branch.

    Raises:
        StackError: if there is no such branch.
    """
    refs = list_refs(store)
    if name not in refs:
        raise _no_ref(name, refs)
    if name in list_tags(store):
        raise StackError(
            f"'{name}' is a tag, and tags do not move", hint=f"`lamina branch NEW {name}` starts a branch there"
        )
    with disk_errors(store.root):
        write_atomically(store.root / "HEAD", f"{name}\n".encode())


def get_current(store: Store) -> tuple[str, str]:
    """Return the current branch and the digest of the stack it holds.

    Raises:
        StackError: if the branch is gone.
    """
    branch = get_head(store)
    held = get_ref(store, branch)
    if held is None:
        raise StackError(f"{store.root}: the branch '{branch}' is missing", hint="`lamina fsck` repairs refs")
    return branch, held


def undone_to(moves: Sequence[RefMove]) -> RefMove | None:
    """Return the last move (of ``moves``, newest first) that has not been undone, if something came before it."""
    made: list[RefMove] = []
    for move in reversed(moves):
        if move.undo and made:
            made.pop()
        else:
            made.append(move)
    return made[-1] if made and made[-1].old else None


def history(store: Store, name: str) -> list[RefMove]:
    """Return the ref's moves, newest first.

    The log is written just before the index, so a crash between the two leaves a move that was never made, and one
    while logging leaves half a line; both are left out.

    Raises:
        UsageError: if ``name`` cannot name a ref.
        StackError: if its log is damaged.
    """
    path = store.root / "logs" / check_name(name, what="ref")
    try:
        text = path.read_text("utf-8") if path.exists() else ""
        moves = [RefMove(**json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise StackError(f"{path}: damaged", hint="delete the broken line") from error
    made, at = [], get_ref(store, name) or ""
    for move in reversed(moves):
        if move.new == at or move.old != at:  # else: noted, but the ref still stood at ``old`` afterwards
            made.append(move)
            at = move.old
    return made


def _holder(index: Index, name: str) -> Descriptor | None:
    return next((item for item in index.manifests if item.annotations.get(REF_KEY) == name), None)


def _without_name(item: Descriptor) -> Descriptor:
    plain = {key: value for key, value in item.annotations.items() if key not in (REF_KEY, TAG_KEY)}
    return item.model_copy(update={"annotations": plain})


def _without_ref(index: Index, name: str) -> list[Descriptor]:
    """Return the index's entries without the ref; what it held stays listed, by another ref or by none."""
    kept = [item for item in index.manifests if item.annotations.get(REF_KEY) != name]
    holder = _holder(index, name)
    if holder is not None and all(item.digest != holder.digest for item in kept):
        kept.append(_without_name(holder))
    return kept


def _no_ref(name: str, refs: Mapping[str, str]) -> StackError:
    hint = did_you_mean(name, list(refs)) or f"refs here: {', '.join(sorted(refs)) or 'none'}"
    return StackError(f"no ref '{name}'", hint=hint)


def _short(digest: str | None) -> str:
    return digest[7:19] if digest else "no such ref"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
