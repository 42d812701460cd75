"""Every stack as a model name: what a name means at this moment, and which names there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lamina.errors import LaminaError, StackError
from lamina.refs import BASE, LayerTerm
from lamina.serve.engine import Layers
from lamina.stack.layers import read_layer, read_stack, stack_digest
from lamina.stack.lineage import MAIN, list_refs, list_tags
from lamina.stack.manifest import BasePin, StackConfig
from lamina.stack.order import check_parents
from lamina.stack.resolve import prefix_names, resolve
from lamina.stack.store import Store

__all__ = ["ServedStack", "Stacks", "UnknownStackError"]

_Stamp = tuple[int, ...]
_MOST_KNOWN = 1000  # sums of layers can be asked for without end


class UnknownStackError(StackError):
    """A name that means no stack here, or several."""


@dataclass(frozen=True, slots=True)
class ServedStack:
    """A stack under the name that was asked for; ``layers`` is what an engine needs, ``names`` what people read.

    ``created`` is when its newest layer was trained, in seconds since 1970; 0 for a bare base. ``is_branch`` says that
    the name is a branch's own: what it holds may change, and a router may pick from it.
    """

    name: str
    digest: str
    layers: Layers
    names: tuple[str, ...]
    created: int
    is_branch: bool

    @property
    def expression(self) -> str:
        """The sum as it can be typed: ``base+tools+facts:0.5``."""
        terms = [LayerTerm(name, scale) for name, (_, scale) in zip(self.names, self.layers, strict=True)]
        return "+".join([BASE, *map(str, terms)])


class Stacks:
    """The stacks of one project on one base, read anew whenever the store has changed."""

    def __init__(self, store: Store, base: BasePin) -> None:
        """Look names up in ``store``; a stack on another base than ``base`` is refused."""
        self._store = store
        self._base = base
        self._stamp: _Stamp = ()
        self._known: dict[tuple[str, bool], ServedStack] = {}
        self._listed: list[ServedStack] | None = None
        self._branches: frozenset[str] | None = None

    def resolve(self, name: str, *, force: bool = False) -> ServedStack:
        """Return the stack that ``name`` means now (grammar in ``lamina.refs``).

        Raises:
            UnknownStackError: if it cannot be read, or names nothing or several things.
            StackError: if a layer lies on another base than its own, or on another parent (law 7) and ``force`` does
                not say to use it anyway.
        """
        self._refresh()
        found = self._known.get((name, force))
        if found is None:
            try:
                stack = resolve(self._store, name, self._base)
            except LaminaError as error:
                near = error.hint if error.hint.startswith("did you mean") else ""
                raise UnknownStackError(error.message, hint=near) from error
            check_parents(self._store, _trusted(stack) if force else stack, self._base)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[name, force] = self._served(name, stack)
        return found

    def public(self, error: LaminaError) -> str:
        """Return what ``error`` says, without where on this machine the project lies."""
        said = f"{error.message}; {error.hint}" if error.hint else error.message
        return said.replace(str(self._store.root), "the store").replace(str(self._store.project), "the project")

    def all(self) -> list[ServedStack]:
        """Return the base, every ref, and every prefix of one that has no ref itself, by name."""
        self._refresh()
        if self._listed is None:
            tags = list_tags(self._store)
            held = sorted(list_refs(self._store).items(), key=lambda item: (item[0] in tags, item[0] != MAIN, item[0]))
            refs = {name: read_stack(self._store, digest) for name, digest in held}
            named = {BASE: StackConfig(base=self._base, layers=())} | refs
            seen = {stack_digest(stack) for stack in named.values()}
            for ref, stack in refs.items():
                for height, name in prefix_names(ref, stack):
                    prefix = stack.prefix(height)
                    if stack_digest(prefix) not in seen:
                        seen.add(stack_digest(prefix))
                        named[name] = prefix
            self._listed = [
                self._served(name, stack) for name, stack in named.items() if stack.base.digest == self._base.digest
            ]
        return self._listed

    def _refresh(self) -> None:
        stamp = self._now()
        if stamp != self._stamp:
            self._stamp, self._known, self._listed, self._branches = stamp, {}, None, None

    def _now(self) -> _Stamp:
        """Return what changes with every write to the store: it replaces these two files by new ones."""
        stamp: list[int] = []
        for name in ("index.json", "HEAD"):
            try:
                stat = (self._store.root / name).stat()
            except FileNotFoundError:
                stamp.append(0)
            else:
                stamp += [stat.st_ino, stat.st_mtime_ns, stat.st_size]
        return tuple(stamp)

    def _served(self, name: str, stack: StackConfig) -> ServedStack:
        if self._branches is None:
            self._branches = frozenset(list_refs(self._store)) - list_tags(self._store)
        created = [datetime.fromisoformat(read_layer(self._store, entry.layer).created) for entry in stack.layers]
        return ServedStack(
            name=name,
            digest=stack_digest(stack),
            layers=tuple((entry.layer, entry.scale) for entry in stack.layers),
            names=tuple(entry.name for entry in stack.layers),
            created=int(max(created).timestamp()) if created else 0,
            is_branch=name in self._branches,
        )


def _trusted(stack: StackConfig) -> StackConfig:
    """Return the stack with every layer marked as put where it lies on purpose."""
    entries = tuple(entry.model_copy(update={"moved": True}) for entry in stack.layers)
    return stack.model_copy(update={"layers": entries})
