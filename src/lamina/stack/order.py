"""What lies on what: layers added to a stack, taken out, moved, weighed, and checked against their parents.

Each function returns a new stack. The sum of layers does not depend on their order, so moving them changes no weight;
it does change what a layer lies on, and an entry that lies on another stack than its layer was trained on says so
(``moved``). Entries that do so without saying so are refused when the stack is loaded (law 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lamina.errors import StackError, UsageError
from lamina.stack.layers import has_prefix, name_of, read_layer, stack_digest, term_of
from lamina.stack.manifest import BasePin, StackConfig, StackEntry
from lamina.stack.store import Store

__all__ = [
    "add_layer",
    "check_parents",
    "drop_layer",
    "find_entry",
    "mark_moved",
    "reorder",
    "rescale_layer",
    "skill_of",
]


def add_layer(store: Store, stack: StackConfig, layer: str, scale: float = 1.0) -> StackConfig:
    """Return ``stack`` with ``layer`` (a digest) on top.

    Raises:
        StackError: if the layer is missing or damaged, or ``scale`` is not a finite number.
    """
    _check_scale(layer[7:19], scale)
    entry = StackEntry(layer=layer, name=read_layer(store, layer).name, scale=scale)
    return stack.model_copy(update={"layers": (*stack.layers, entry)})


def drop_layer(store: Store, stack: StackConfig, name: str) -> StackConfig:
    """Return ``stack`` without the topmost layer called ``name``, or whose digest starts with ``name``.

    Dropping the top layer gives back the stack that it was put on, to the digest.

    Raises:
        StackError: if it has none, or the digits fit several layers.
    """
    place = find_entry(stack, name)
    kept = tuple(entry for index, entry in enumerate(stack.layers) if index != place)
    return mark_moved(store, stack.model_copy(update={"layers": kept}), start=place)


def reorder(store: Store, stack: StackConfig, names: Sequence[str]) -> StackConfig:
    """Return ``stack`` with its layers in the order of ``names``, bottom first.

    Raises:
        UsageError: if ``names`` are not exactly the stack's layers.
        StackError: if a name fits none, or its digits several.
    """
    places = [find_entry(stack, name) for name in names]
    if sorted(places) != list(range(len(stack.layers))):
        raise UsageError(
            f"'{','.join(names)}' is not an order of the {len(stack.layers)} layers of {name_of(stack)}",
            hint=f"name each layer once, bottom first: {','.join(entry.name for entry in stack.layers)}",
        )
    return mark_moved(store, stack.model_copy(update={"layers": tuple(stack.layers[place] for place in places)}))


def rescale_layer(store: Store, stack: StackConfig, name: str, scale: float) -> StackConfig:
    """Return ``stack`` with the addition of the layer ``name`` multiplied by ``scale`` instead of what it was.

    Raises:
        StackError: if there is no such layer, or ``scale`` is not a finite number.
    """
    _check_scale(name, scale)
    place = find_entry(stack, name)
    entries = list(stack.layers)
    entries[place] = entries[place].model_copy(update={"scale": scale})
    return mark_moved(store, stack.model_copy(update={"layers": tuple(entries)}), start=place + 1)


def mark_moved(store: Store, stack: StackConfig, start: int = 0) -> StackConfig:
    """Return ``stack`` with every entry from place ``start`` upwards marked if it lies not on its layer's parent."""
    for place in range(start, len(stack.layers)):
        entry = stack.layers[place]
        layer = read_layer(store, entry.layer)
        moved = not _is_on_parent(stack, place, layer.parent, layer.base)
        entries = (*stack.layers[:place], entry.model_copy(update={"moved": moved}), *stack.layers[place + 1 :])
        stack = stack.model_copy(update={"layers": entries})
    return stack


def find_entry(stack: StackConfig, name: str) -> int:
    """Return the place of the topmost layer called ``name``, or whose digest starts with ``name``.

    Raises:
        StackError: if there is none, or the digits fit several layers.
    """
    places = [index for index, entry in enumerate(stack.layers) if entry.name == name]
    if not places:
        places = [index for index, entry in enumerate(stack.layers) if has_prefix(entry.layer, name)]
        if len(fits := {stack.layers[index].layer for index in places}) > 1:
            raise StackError(
                f"'{name}' is short for {len(fits)} layers", hint=f"type more digits of {' or '.join(sorted(fits))}"
            )
    if not places:
        listed = ", ".join(term_of(entry.name, entry.scale) for entry in stack.layers)
        raise StackError(f"no layer '{name}' in this stack", hint=f"its layers are: {listed or 'none'}")
    return places[-1]


def skill_of(stack: StackConfig, name: str) -> str:
    """Return the skill that the layer ``name`` serves: ``tools`` for its update ``tools.2``, else the name itself."""
    skill, _, number = name.rpartition(".")
    return skill if number.isdigit() and any(entry.name == skill for entry in stack.layers) else name


def check_parents(store: Store, stack: StackConfig, base: BasePin) -> None:
    """Check that a stack is on ``base``, and each layer on the base and parent stack it was trained on (law 7).

    A layer that was moved on purpose may lie on another parent, but never on another base.

    Raises:
        StackError: naming the first layer that does not, what it expects, and what it found.
    """
    for height, entry in enumerate(stack.layers):
        layer = read_layer(store, entry.layer)
        if layer.base.digest != base.digest:
            raise StackError(
                f"layer '{layer.name}' was trained on base {layer.base.name} ({layer.base.digest[7:19]}), "
                f"this is {base.name} ({base.digest[7:19]})",
                hint="use the base it was trained on; --force loads it anyway, and its answers may be noise",
            )
        if not entry.moved and not _is_on_parent(stack, height, layer.parent, layer.base):
            below = stack.prefix(height)
            raise StackError(
                f"layer '{layer.name}' was trained on stack {layer.parent[7:19]}, below it here is "
                f"{name_of(below)} ({stack_digest(below)[7:19]})",
                hint="stack it on its own parent; --force loads it anyway: measure it with `lamina eval` before use",
            )
    if stack.base.digest != base.digest:
        raise StackError(
            f"the stack is on base {stack.base.name} ({stack.base.digest[7:19]}), "
            f"this is {base.name} ({base.digest[7:19]})",
            hint="use the base it was made on",
        )


def _is_on_parent(stack: StackConfig, height: int, parent: str, pin: BasePin) -> bool:
    below = stack.prefix(height)
    # The same base under another name or path is the same base: the layer's own pin spells its parent too.
    return parent in (stack_digest(below), stack_digest(below.model_copy(update={"base": pin})))


def _check_scale(layer: str, scale: float) -> None:
    if not math.isfinite(scale):
        raise StackError(f"scale {scale} of layer {layer} is not a finite number", hint="for example: 0.5")
