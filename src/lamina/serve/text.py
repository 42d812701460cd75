"""From token ids to text that may be shown: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Detokeniser", "StopFinder"]

_BROKEN = "\ufffd"


class Detokeniser:
    """Turns ids into text as they come; the pieces joined are the text of all ids.

    A character may be cut across tokens; it is given out once it is whole. Ids are decoded together with those of the
    piece before, because some tokenizers treat the first token of a text in their own way.

    Source: the two offsets of vLLM's and TGI's incremental decoding.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Decode with ``decode``, which returns the text of a list of ids."""
        self._decode = decode
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token: int) -> str:
        """Return the text that ``token`` completes, empty while a character is unfinished."""
        self._ids.append(token)
        return self._take(unfinished=False)

    def flush(self) -> str:
        """Return what was held back, unfinished characters as U+FFFD."""
        return self._take(unfinished=True)

    def _take(self, *, unfinished: bool) -> str:
        before, now = self._decode(self._ids[: self._shown]), self._decode(self._ids)
        if len(now) <= len(before) or (now.endswith(_BROKEN) and not unfinished):
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return now[len(before) :]


class StopFinder:
    """Lets text through up to the first stop string, and holds back what may turn out to begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for ``stops``, none of them empty."""
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Return what of the text so far may be shown; ``found`` says that a stop string came, and that this is all."""
        self._held += text
        places = [place for place in (self._held.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self.found = True
            return self._let(min(places))
        return self._let(len(self._held) - self._open())

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        return self._let(len(self._held))

    def _let(self, length: int) -> str:
        shown, self._held = self._held[:length], self._held[length:]
        return shown

    def _open(self) -> int:
        """Return the length of the longest end of the text that a stop string begins with."""
        longest = min(max(map(len, self._stops), default=1) - 1, len(self._held))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
