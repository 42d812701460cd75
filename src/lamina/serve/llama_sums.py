"""Which sums of layers get an adapter of their own although no ref names them: those that are asked for again."""

from __future__ import annotations

from collections import OrderedDict, deque

from lamina.serve.engine import Layers

__all__ = ["AskedSums"]

_AGAIN = 2
_MOST_KEPT = 4
_MOST_NOTED = 256
# A process that starts takes seconds of computing, and somebody may be moving a slider.
_PAUSE_S = 60.0


class AskedSums:
    """Counts what is asked for, and keeps the last few sums that were."""

    def __init__(self) -> None:
        """Start with nothing asked for."""
        self._asked: OrderedDict[Layers, int] = OrderedDict()
        self._kept: deque[Layers] = deque(maxlen=_MOST_KEPT)
        self._last = -_PAUSE_S

    @property
    def kept(self) -> tuple[Layers, ...]:
        """The sums to have, at most four."""
        return tuple(self._kept)

    def is_due(self, layers: Layers, now: float) -> bool:
        """Note that layers are used one by one; return whether to load their sum, ``now`` in seconds.

        True from the second time on, and for one sum a minute: each costs the start of a process.
        """
        times = self._asked.pop(layers, 0) + 1
        self._asked[layers] = times
        while len(self._asked) > _MOST_NOTED:
            self._asked.popitem(last=False)
        if times < _AGAIN or now < self._last + _PAUSE_S:
            return False
        self._last = now
        return True

    def keep(self, layers: Layers) -> None:
        """Have this sum from now on; the one that was kept longest makes room for it."""
        if layers not in self._kept:
            self._kept.append(layers)

    def drop(self, layers: Layers) -> None:
        """Do without this sum."""
        self._kept.remove(layers)
