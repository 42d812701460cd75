"""Refs, their history, and what a typed stack expression means."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Literal

from lamina.errors import StackError
from lamina.refs import BASE, LayerTerm, StackExpression, check_name
from lamina.stack.layers import has_prefix, list_layers, list_stacks, read_stack
from lamina.stack.manifest import REF_KEY, STACK_TYPE, BasePin, LayerConfig, StackConfig, StackEntry
from lamina.stack.store import Store

__all__ = ["ANY", "RefMove", "get_ref", "history", "list_refs", "resolve", "set_ref"]


class _Any(Enum):
    ANY = "wherever the ref points now"


ANY: Literal[_Any.ANY] = _Any.ANY


@dataclass(frozen=True, slots=True)
class RefMove:
    """One move of a ref: from where (empty at its birth), to where, when (ISO, UTC) and why."""

    old: str
    new: str
    when: str
    why: str


def set_ref(store: Store, name: str, digest: str, *, why: str, expect: str | _Any | None = ANY) -> None:
    """Point the ref ``name`` at the stack ``digest``, and note it in the ref's log.

    ``expect`` is where the ref must still point (None at its birth): a slow command never undoes a quick one. ``ANY``
    moves it from wherever it is.

    Raises:
        UsageError: if ``name`` cannot name a ref.
        StackError: if the ref has moved meanwhile, or the stack is not in the store.
    """
    check_name(name, what="ref")
    with store.lock():
        index = store.read_index()
        now = next((item.digest for item in index.manifests if item.annotations.get(REF_KEY) == name), None)
        if expect is not ANY and now != expect:
            raise StackError(
                f"ref '{name}' moved meanwhile: expected {_short(expect)}, found {_short(now)}",
                hint="look at `lamina log`, then run the command again",
            )
        if all(item.digest != digest or item.artifactType != STACK_TYPE for item in index.manifests):
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
    refs = list_refs(store)
    if expression.back and expression.root not in refs:
        raise StackError(
            f"'{expression}': '{expression.root}' is not a ref, so nothing came before it",
            hint=f"refs here: {', '.join(sorted(refs)) or 'none'}",
        )
    if expression.root == BASE:
        return StackConfig(base=base, layers=())
    if expression.root in refs:
        moves = history(store, expression.root)
        if not expression.back:
            return read_stack(store, refs[expression.root])
        if expression.back >= len(moves):
            raise StackError(
                f"'{expression.root}~{expression.back}': ref '{expression.root}' has only {max(len(moves) - 1, 0)} "
                "earlier stacks",
                hint=f"`lamina log {expression.root}` lists them",
            )
        return read_stack(store, moves[expression.back].new)
    found = [digest for digest in list_stacks(store) if has_prefix(digest, expression.root)]
    if not found:
        hint = _did_you_mean(expression.root, [*refs, BASE]) or f"refs here: {', '.join(sorted(refs)) or 'none'}"
        raise StackError(f"no ref or stack '{expression.root}'", hint=hint)
    _check_one(expression.root, found, "stacks")
    return read_stack(store, found[0])


def _entry(store: Store, term: LayerTerm, layers: list[tuple[str, LayerConfig]]) -> StackEntry:
    named = [(digest, layer) for digest, layer in layers if layer.name == term.layer]
    if not named:
        named = [(digest, layer) for digest, layer in layers if has_prefix(digest, term.layer)]
        _check_one(term.layer, [digest for digest, _ in named], "layers")
    if not named:
        hint = _did_you_mean(term.layer, [layer.name for _, layer in layers]) or "`lamina log` lists the layers"
        raise StackError(f"no layer '{term.layer}'", hint=hint)
    main = list_refs(store).get("main")
    stacked = {entry.layer for entry in read_stack(store, main).layers} if main else set()
    digest, layer = max(named, key=lambda pair: (pair[0] in stacked, pair[1].created))
    return StackEntry(layer=digest, name=layer.name, scale=term.scale)


def _check_one(text: str, found: list[str], what: str) -> None:
    if len(found) > 1:
        listed = ", ".join(sorted(digest.removeprefix("sha256:") for digest in found))
        raise StackError(f"'{text}' is short for {len(found)} {what}", hint=f"type more digits of one of: {listed}")


def _did_you_mean(text: str, known: list[str]) -> str:
    near = difflib.get_close_matches(text, sorted(set(known)), n=3)
    return f"did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def _short(digest: str | None) -> str:
    return digest[7:19] if digest else "no such ref"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
