"""What a typed stack expression means in a store."""

from __future__ import annotations

from lamina.errors import StackError, UsageError
from lamina.refs import BASE, LayerTerm, StackExpression, did_you_mean
from lamina.stack.layers import has_prefix, list_layers, list_stacks, read_stack
from lamina.stack.lineage import get_current, get_head, get_ref, history, list_refs, list_tags
from lamina.stack.manifest import BasePin, LayerConfig, StackConfig, StackEntry
from lamina.stack.order import find_entry
from lamina.stack.store import Store

__all__ = ["prefix_names", "resolve", "resolve_here", "resolve_layer"]


def resolve(store: Store, text: str, base: BasePin) -> StackConfig:
    """Return the stack that ``text`` means (grammar in ``lamina.refs``), on ``base`` where it says ``base``.

    A layer name that several layers share means the one in the current branch, else the newest.

    Raises:
        UsageError: if it cannot be parsed.
        StackError: if it names nothing, or several things.
    """
    expression = StackExpression.parse(text)
    stack = _root(store, expression, base)
    if expression.at:
        stack = _at(store, expression, stack)
    if not expression.terms:
        return stack
    layers = list_layers(store)
    entries = [_entry(store, term, layers) for term in expression.terms]
    return stack.model_copy(update={"layers": (*stack.layers, *entries)})


def resolve_here(store: Store, text: str | None) -> StackConfig:
    """Return the stack that ``text`` means, None the current branch; ``base`` is the base that branch is on.

    Raises:
        UsageError: if it cannot be parsed.
        StackError: if it names nothing, or several things, or the current branch is missing.
    """
    branch, held = get_current(store)
    return resolve(store, text or branch, read_stack(store, held).base)


def resolve_layer(store: Store, name: str) -> StackEntry:
    """Return the one layer that a name or the beginning of a digest means, as an entry of scale 1.

    Raises:
        UsageError: if ``name`` is not one layer but a sum, a scaled layer or a step back.
        StackError: if there is no such layer, or the digits fit several.
    """
    expression = StackExpression.parse(f"{BASE}+{name}")
    if expression.terms != (LayerTerm(name),):
        raise UsageError(f"'{name}' is not one layer", hint="name it alone, or by the first digits of its digest")
    return _entry(store, LayerTerm(name), list_layers(store))


def prefix_names(ref: str, stack: StackConfig) -> list[tuple[int, str]]:
    """Return the height and name (``main@tools``) of every prefix of ``ref``'s ``stack`` but the whole, lowest first.

    A layer name that comes again higher up means the higher one, so the lower goes by the digits of its digest.
    """
    names = [entry.name for entry in stack.layers]
    places = enumerate(stack.layers[:-1])
    return [
        (place + 1, f"{ref}@{_digits(entry) if entry.name in names[place + 1 :] else entry.name}")
        for place, entry in places
    ]


def _digits(entry: StackEntry) -> str:
    return entry.layer.removeprefix("sha256:")[:12]


def _at(store: Store, expression: StackExpression, stack: StackConfig) -> StackConfig:
    """Return the stack that a tag holds if the root has held it, else ``stack`` up to a layer."""
    if expression.at in list_tags(store) and not expression.back:
        held = list_refs(store)[expression.at]
        if all(held not in (move.old, move.new) for move in history(store, expression.root)):
            raise StackError(
                f"'{expression}': '{expression.root}' never held the stack that is tagged '{expression.at}'",
                hint=f"that stack is called '{expression.at}'",
            )
        return read_stack(store, held)
    return stack.prefix(find_entry(stack, expression.at) + 1)


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
        if not expression.back:
            return read_stack(store, refs[expression.root])
        moves = history(store, expression.root)
        if expression.back >= len(moves):
            raise StackError(
                f"'{expression.root}~{expression.back}': ref '{expression.root}' has only {max(len(moves) - 1, 0)} "
                "earlier stacks",
                hint=f"`lamina log {expression.root}` lists them",
            )
        return read_stack(store, moves[expression.back].new)
    found = [digest for digest in list_stacks(store) if has_prefix(digest, expression.root)]
    if not found:
        hint = did_you_mean(expression.root, [*refs, BASE]) or f"refs here: {', '.join(sorted(refs)) or 'none'}"
        raise StackError(f"no ref or stack '{expression.root}'", hint=hint)
    _check_one(expression.root, found, "stacks")
    return read_stack(store, found[0])


def _entry(store: Store, term: LayerTerm, layers: list[tuple[str, LayerConfig]]) -> StackEntry:
    named = [(digest, layer) for digest, layer in layers if layer.name == term.layer]
    if not named:
        named = [(digest, layer) for digest, layer in layers if has_prefix(digest, term.layer)]
        _check_one(term.layer, [digest for digest, _ in named], "layers")
    if not named:
        hint = did_you_mean(term.layer, [layer.name for _, layer in layers]) or "`lamina log` lists the layers"
        raise StackError(f"no layer '{term.layer}'", hint=hint)
    head = get_ref(store, get_head(store))
    stacked = {entry.layer for entry in read_stack(store, head).layers} if head else set()
    digest, layer = max(named, key=lambda pair: (pair[0] in stacked, pair[1].created))
    return StackEntry(layer=digest, name=layer.name, scale=term.scale)


def _check_one(text: str, found: list[str], what: str) -> None:
    if len(found) > 1:
        listed = ", ".join(sorted(digest.removeprefix("sha256:") for digest in found))
        raise StackError(f"'{text}' is short for {len(found)} {what}", hint=f"type more digits of one of: {listed}")
