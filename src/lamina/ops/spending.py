"""What a step takes, measured while it runs and put into the ledger at its end, also when it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from lamina.ops.costs import count_parameters, layer_size, pass_flops, thin_part
from lamina.ops.ledger import Entry, append
from lamina.ops.project import Project
from lamina.stack.manifest import StackConfig

__all__ = ["Step", "spending"]


@dataclass(slots=True)
class Step:
    """A step under way. ``own``: numbers in the layer that is trained, set once they are known."""

    own: int = 0


@contextmanager
def spending(project: Project, step: str, layer: str, stack: StackConfig) -> Iterator[Step]:
    """Count what goes through the project's base inside, and append it to the ledger.

    Steps do not hold one another: what is inside two is counted twice. A step in which nothing went through the base
    (everything was remembered) leaves no entry.

    Args:
        project: the open project.
        step: one of ``lamina.ops.ledger.STEPS``.
        layer: the name of the layer it is for; empty for the bare base.
        stack: the frozen layers that every token passes.
    """
    before, started, here = project.counted(), time.perf_counter(), Step()
    try:
        yield here
    finally:
        seconds, after = time.perf_counter() - started, project.counted()
        scored, trained = after.scored - before.scored, after.trained - before.trained
        if scored or trained:
            base = count_parameters(project.base.folder)
            below = sum(layer_size(project.store, entry.layer) for entry in stack.layers)
            below = thin_part(project.base.pin, base, below)
            flops = pass_flops(scored=scored, trained=trained, base=base, below=below, own=here.own)
            append(project.store, _entry(project, step, layer, (scored, trained), flops, seconds))


def _entry(project: Project, step: str, layer: str, tokens: tuple[int, int], flops: float, seconds: float) -> Entry:
    costs, hours = project.settings.cost, seconds / 3600
    watt_hours = costs.watts * hours
    return Entry(
        step=step,
        layer=layer,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        tokens=sum(tokens),
        trained=tokens[1],
        flops=flops,
        seconds=seconds,
        watt_hours=watt_hours,
        money=costs.price_kwh * watt_hours / 1000 + costs.price_hour * hours,
    )
