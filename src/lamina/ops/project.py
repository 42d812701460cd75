"""An open project: its store, its settings and its base. Where every other op starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lamina.config import CONFIG_NAME, BaseSettings, Settings, load_settings
from lamina.errors import UsageError
from lamina.lora.adapter import Adapter, load_adapter
from lamina.lora.quantised import require_quantiser
from lamina.lora.surgery import attach
from lamina.model.base import Base, LoadedBase, load_base, resolve_base
from lamina.model.meter import Meter
from lamina.ops.toml import quoted
from lamina.records import Progress
from lamina.stack.layers import read_layer, write_stack
from lamina.stack.lineage import MAIN, get_current, get_head, set_ref
from lamina.stack.manifest import StackConfig, StackEntry
from lamina.stack.order import check_parents
from lamina.stack.resolve import resolve
from lamina.stack.store import Store
from lamina.train.memory import free_bytes

__all__ = ["Project", "base_table", "init_project", "open_project"]

_FLOAT32_BYTES = 4


@dataclass
class Project:
    """A project folder that has been opened. The base is loaded into memory on first use, once."""

    store: Store
    settings: Settings
    base: Base
    progress: Progress
    _loaded: LoadedBase | None = field(default=None, repr=False)
    _exact: LoadedBase | None = field(default=None, repr=False)
    _counted: Meter = field(default_factory=Meter, repr=False)
    _is_claimed: bool = field(default=False, repr=False)

    @property
    def loaded(self) -> LoadedBase:
        """The base in memory."""
        if self._loaded is None:
            self._loaded = load_base(self.base)
        return self._loaded

    @property
    def branch(self) -> str:
        """The current branch."""
        return get_head(self.store)

    def stack(self, expression: str | None = None) -> StackConfig:
        """Return the stack that ``expression`` names; None means the current branch.

        Raises:
            StackError: if there is none.
        """
        return resolve(self.store, expression or self.branch, self.base.pin)

    @contextmanager
    def working(self, verb: str) -> Iterator[None]:
        """Claim the project for ``verb``, a long one; a verb that runs within another shares its claim.

        Raises:
            BusyError: if another lamina is at work in it.
        """
        if self._is_claimed:
            yield
            return
        with self.store.claim(verb):
            self._is_claimed = True
            try:
                yield
            finally:
                self._is_claimed = False

    def release(self) -> None:
        """Let go of the base in memory; it is loaded again on its next use."""
        self._counted = self.counted()
        self._loaded = None
        self._exact = None

    def counted(self) -> Meter:
        """Return what went through this project's base since it was opened, in either precision."""
        meters = [self._counted, *(held.meter for held in (self._loaded, self._exact) if held is not None)]
        return Meter(sum(meter.scored for meter in meters), sum(meter.trained for meter in meters))

    def exact(self, stack: StackConfig) -> LoadedBase | None:
        """Return the base in float32 with the layers of ``stack`` active, beside the one in the machine's own dtype.

        None if memory does not hold it, which is said.
        """
        if self._exact is None:
            needed = _FLOAT32_BYTES * sum(parameter.numel() for parameter in self.loaded.model.parameters())
            if 2 * needed > free_bytes(self.loaded.device):
                self.progress.note("too little memory for float32: choices within rounding stay as bfloat16 has them")
                return None
            self._exact = load_base(self.base, dtype=torch.float32)
        attach(self._exact.model, self.adapters(stack.layers), [entry.scale for entry in stack.layers])
        return self._exact

    def adapters(self, entries: Sequence[StackEntry]) -> list[Adapter]:
        """Return the weights of a stack's entries, each without the scale of its place."""
        weights = [read_layer(self.store, entry.layer).weights for entry in entries]
        return [load_adapter(self.store.blob_path(digest)) for digest in weights]

    def activate(
        self, stack: StackConfig, *, force: bool = False, top: tuple[Adapter, float] | None = None
    ) -> LoadedBase:
        """Return the base with exactly the layers of ``stack`` active, and ``top`` with its scale, if one is given.

        Raises:
            StackError: if a layer belongs to another base or parent, unless forced (law 7).
        """
        if not force:
            check_parents(self.store, stack, self.base.pin)
        layers: list[tuple[Adapter, float]] = [
            *zip(self.adapters(stack.layers), (entry.scale for entry in stack.layers), strict=True)
        ]
        layers += [] if top is None else [top]
        attach(self.loaded.model, [adapter for adapter, _ in layers], [scale for _, scale in layers])
        return self.loaded


def init_project(folder: Path, settings: BaseSettings, progress: Progress) -> Project:
    """Create ``lamina.toml`` and ``.lamina/`` in ``folder`` and point ``main`` at the bare base.

    Raises:
        UsageError: if the folder is a project already.
        StackError, MachineError: if the base cannot be had or quantised; nothing is written then.
    """
    config = folder / CONFIG_NAME
    if config.exists() or (folder / ".lamina").exists():
        raise UsageError(f"{folder}: already a lamina project", hint="run `lamina log` to see its layers")
    require_quantiser(settings.quantise)
    base = resolve_base(settings, progress)
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.create(folder)
    set_ref(store, MAIN, write_stack(store, StackConfig(base=base.pin, layers=())), why="init")
    table = base_table(settings.model_copy(update={"digest": base.pin.digest}))
    config.write_text(f"# Keys and defaults: docs/settings.md\n{table}", "utf-8")
    return Project(store, load_settings(config), base, progress)


def base_table(settings: BaseSettings) -> str:
    """Return the table ``[base]`` of ``lamina.toml`` that says what ``settings`` say."""
    said = settings.model_dump(mode="json", exclude_defaults=True) | {"model": settings.model}
    return "[base]\n" + "".join(f"{key} = {quoted(said[key])}\n" for key in BaseSettings.model_fields if key in said)


def open_project(start: Path, progress: Progress) -> Project:
    """Return the project that ``start`` lies in.

    Raises:
        StackError: if there is none, or its base is gone or changed.
        UsageError: if ``lamina.toml`` has mistakes.
    """
    store = Store.find(start)
    settings = load_settings(store.project / CONFIG_NAME)
    project = Project(store, settings, resolve_base(settings.base, progress), progress)
    get_current(store)
    return project
