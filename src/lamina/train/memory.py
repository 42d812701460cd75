"""How many tokens go through the model at once: as many as memory has room for, and fewer when that was too many.

How a step is cut changes its result only by rounding (law 5), and what is recomputed not at all. The cut is kept in the
checkpoint, so that a resumed run adds up in the same order (law 6), and in the layer, so that a reproduced one does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lamina.errors import MachineError
from lamina.model.base import LoadedBase
from lamina.records import TokenRow

__all__ = ["MicroBatch", "PassSizes", "free_bytes", "is_out_of_memory"]

# Beyond these a pass only takes more memory: matrix products are as fast as they get.
_MOST_TOKENS = {"cpu": 2048, "cuda": 16384}
_FEW_TOKENS = 512
_SHARE = 0.5
_PROBE_TOKENS = 32

PassSizes = Sequence[tuple[int, int]]
"""How a run cut its steps: pairs of the first step and the most tokens of a pass from there on."""


class MicroBatch:
    """The largest pass that a training run makes.

    Attributes:
        tokens: most tokens in one pass; a longer row still goes alone.
        recompute: keep only the blocks' inputs between forward and backward, where the base can.
    """

    def __init__(self, tokens: int, *, recompute: bool = False) -> None:
        """Start with the given sizes."""
        self.tokens = tokens
        self.recompute = recompute

    @classmethod
    def measured(cls, base: LoadedBase) -> MicroBatch:
        """Return the largest pass for which there is room now, on the device where ``base`` lies.

        Half the free memory is left alone, for the machine's owner and for what a pass needs besides activations.
        Recomputing comes in where room for fewer than 512 tokens would be left without it.
        """
        room = _SHARE * free_bytes(base.device)
        most = _MOST_TOKENS.get(base.device.type, 2048)
        kept = int(room / _bytes_per_token(base, recompute=False))
        if kept >= _FEW_TOKENS or base.fused is None:
            return cls(max(1, min(most, kept)))
        return cls(max(1, min(most, int(room / _bytes_per_token(base, recompute=True)))), recompute=True)

    @classmethod
    def recorded(cls, base: LoadedBase, tokens: int) -> MicroBatch:
        """Return passes of ``tokens``, as an earlier run made them, recomputed if there is less room than that now."""
        now = cls.measured(base)
        return cls(tokens, recompute=base.fused is not None and (now.recompute or now.tokens < tokens))

    def back_off(self, rows: Sequence[TokenRow], *, can_recompute: bool) -> None:
        """Ask for less after a pass over ``rows`` has run out of memory: recompute first, then halve.

        Raises:
            MachineError: if a single row is too much already.
        """
        largest = max(len(row.ids) for row in rows)
        if can_recompute and not self.recompute:
            self.recompute = True
        elif self.tokens <= largest:
            raise MachineError(
                f"a row of {largest:,} tokens does not fit in this machine's memory",
                hint="close other programs, shorten the rows with --max-length, or use a smaller base",
            )
        else:
            total = sum(len(row.ids) for row in rows)
            self.tokens = max(largest, min(self.tokens, total) // 2)


def free_bytes(device: torch.device) -> int:
    """Return the memory that a process can still take on ``device``, limits of its control group and shell included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    rooms = [_meminfo("/proc/meminfo", "MemAvailable")]
    if (limit := _shell_limit()) is not None:
        rooms.append(limit - _meminfo("/proc/self/status", "VmSize"))
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if most != "max":
            rooms.append(int(most) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(0, min(rooms))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` is how torch or Python say that memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    # The CPU's allocator and oneDNN have no exception of their own.
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "could not create a memory" in text)


def _shell_limit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _meminfo(path: str, key: str) -> int:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 1 << 33
    found = next((line.split()[1] for line in lines if line.startswith(f"{key}:")), None)
    return 1 << 33 if found is None else int(found) * 1024


def _bytes_per_token(base: LoadedBase, *, recompute: bool) -> float:
    if base.fused is not None:
        return base.fused.bytes_per_token(base.head.weight.element_size(), recompute=recompute)
    return _probe(base)


def _probe(base: LoadedBase) -> float:
    """Return what autograd keeps per token of a short row, measured: for families whose blocks are not ours."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in base.model.parameters()}
    row = TokenRow((0,) * _PROBE_TOKENS, (False,) + (True,) * (_PROBE_TOKENS - 1))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        base.last_states([row])
    return max(1.0, sum(size for place, size in kept.items() if place not in weights) / _PROBE_TOKENS)
