"""Refs, their history, and what a typed stack expression means."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from lamina.errors import StackError
from lamina.refs import BASE, LayerTerm, StackExpression
from lamina.stack.layers import list_layers, list_stacks, read_stack
from lamina.stack.manifest import REF_KEY, BasePin, LayerConfig, StackConfig, StackEntry
from lamina.stack.store import Store

__all__ = ["RefMove", "get_ref", "history", "list_refs", "resolve", "set_ref"]

_SHORTEST_PREFIX = 4


@dataclass(frozen=True, slots=True)
class RefMove:
    """One move of a ref: from where (empty at its birth), to where, when (ISO, UTC) and why."""

    old: str
    new: str
    when: str
    why: str


def set_ref(store: Store, name: str, digest: str, *, why: str, expect: str | None = None) -> None:
    """Point the ref ``name`` at the stack ``digest``, and note it in the ref's log.

    ``expect`` is where the ref must still point (None at its birth): a slow command never undoes a quick one.

    Raises:
        StackError: if the ref has moved meanwhile, or the stack is not in the store.
    """
    with store.lock():
        index = store.read_index()
        now = next((item.digest for item in index.manifests if item.annotations.get(REF_KEY) == name), None)
        if now != expect:
            raise StackError(f"ref '{name}' moved meanwhile", hint="look at `lamina log`, then run the command again")
        if all(item.digest != digest for item in index.manifests):
            raise StackError(f"stack {digest[7:19]} is not in {store.root}", hint="pull or train it first")
        # One descriptor carries one ref, so a stack with two refs is listed twice, as the OCI layout has it.
        kept = [item for item in index.manifests if item.annotations.get(REF_KEY) != name]
        if now is not None and all(item.digest != now for item in kept):
            old = next(item for item in index.manifests if item.digest == now)
            plain = {key: value for key, value in old.annotations.items() if key != REF_KEY}
            kept.append(old.model_copy(update={"annotations": plain}))
        target = next(item for item in index.manifests if item.digest == digest)
        named = target.model_copy(update={"annotations": target.annotations | {REF_KEY: name}})
        unnamed = [item for item in kept if item.digest != digest or REF_KEY in item.annotations]
        store.append_log(name, {"old": now or "", "new": digest, "when": _now(), "why": why})
        store.write_index(index.model_copy(update={"manifests": (*unnamed, named)}))


def get_ref(store: Store, name: str) -> str | None:
    """Return the digest of the stack that the ref holds, or None."""
    return list_refs(store).get(name)


def list_refs(store: Store) -> dict[str, str]:
    """Return every ref and the digest it holds."""
    items = store.read_index().manifests
    return {item.annotations[REF_KEY]: item.digest for item in items if REF_KEY in item.annotations}


def history(store: Store, name: str) -> list[RefMove]:
    """Return the ref's moves, newest first.

    Raises:
        StackError: if its log is damaged.
    """
    path = store.root / "logs" / name
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [RefMove(**json.loads(line)) for line in reversed(lines)]
    except (OSError, ValueError, TypeError) as error:
        raise StackError(f"{path}: damaged", hint="delete the broken line") from error


def resolve(store: Store, text: str, base: BasePin) -> StackConfig:
    """Return the stack that ``text`` means (grammar in ``lamina.refs``), on ``base`` where it says ``base``.

    A layer name that several layers share means the one in ``main``, else the newest.

    Raises:
        UsageError: if it cannot be parsed.
        StackError: if it names nothing, or several things.
    """
    expression = StackExpression.parse(text)
    stack = _root(store, expression, base)
    if not expression.terms:
        return stack
    layers = list_layers(store)
    entries = [_entry(store, term, layers) for term in expression.terms]
    return stack.model_copy(update={"layers": (*stack.layers, *entries)})


def _root(store: Store, expression: StackExpression, base: BasePin) -> StackConfig:
    if expression.root == BASE:
        return StackConfig(base=base, layers=())
    refs = list_refs(store)
    if expression.root in refs:
        moves = history(store, expression.root)
        if not expression.back:
            return read_stack(store, refs[expression.root])
        if expression.back >= len(moves):
            raise StackError(f"'{expression}': ref '{expression.root}' has moved only {len(moves) - 1} times")
        return read_stack(store, moves[expression.back].new)
    prefix = expression.root.removeprefix("sha256:")
    found = [digest for digest in list_stacks(store) if digest[7:].startswith(prefix)]
    if len(prefix) < _SHORTEST_PREFIX or not found:
        near = difflib.get_close_matches(expression.root, [*refs, BASE], n=1)
        known = f"did you mean '{near[0]}'?" if near else f"refs here: {', '.join(sorted(refs))}"
        raise StackError(f"no ref or stack '{expression.root}'", hint=known)
    if len(set(found)) > 1:
        raise StackError(f"'{expression.root}' is short for {len(set(found))} stacks", hint="type more digits")
    return read_stack(store, found[0])


def _entry(store: Store, term: LayerTerm, layers: list[tuple[str, LayerConfig]]) -> StackEntry:
    prefix = term.layer.removeprefix("sha256:")
    named = [(digest, layer) for digest, layer in layers if layer.name == term.layer]
    if not named and len(prefix) >= _SHORTEST_PREFIX:
        named = [(digest, layer) for digest, layer in layers if digest[7:].startswith(prefix)]
    if not named:
        near = difflib.get_close_matches(term.layer, [layer.name for _, layer in layers], n=1)
        hint = f"did you mean '{near[0]}'?" if near else "`lamina log` lists the layers"
        raise StackError(f"no layer '{term.layer}'", hint=hint)
    main = list_refs(store).get("main")
    stacked = {entry.layer for entry in read_stack(store, main).layers} if main else set()
    digest, layer = max(named, key=lambda pair: (pair[0] in stacked, pair[1].created))
    return StackEntry(layer=digest, name=layer.name, scale=term.scale)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
