"""The kernels compiled for this machine, once: ``native.cpp`` built by the system's C++ compiler, called by address.

torch.compile makes equally fast loops from Python, but starting it costs seconds at every start of a command, also
when all is cached; a shared library is there in a millisecond (docs/design/training-step.md has both figures).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lamina.kernels.shapes import Heads, Mask, Places, Slopes, Turns
from lamina.refs import Digest

__all__ = ["NativeKernels", "build_native"]

_SOURCE = Path(__file__).with_name("native.cpp")
_FLAGS = (
    "-std=c++17 -O3 -march=native -mprefer-vector-width=512 -fopenmp -fno-math-errno -fno-trapping-math -shared -fPIC"
)
_P, _N, _F, _I = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
_SIGNATURES: dict[str, list[type]] = {
    "norm": [_P] * 4 + [_N] * 2 + [_F],
    "norm_backward": [_P] * 6 + [_N] * 2 + [_F],
    "gate": [_P] * 2 + [_N] * 2 + [_I],
    "gate_backward": [_P] * 3 + [_N] * 2 + [_I],
    "split": [_P] * 9 + [_N] * 7 + [_F],
    "split_backward": [_P] * 10 + [_N] * 7 + [_F],
    "gather": [_P] * 3 + [_N] * 6 + [_I],
    "softmax": [_P] * 2 + [_N] * 7 + [_F] * 2,
    "softmax_backward": [_P] * 3 + [_N] * 7 + [_F],
    "cross_entropy": [_P] * 3 + [_N] * 2 + [_F] * 2 + [_I],
}


@cache
def build_native(folder: Path, machine: str) -> NativeKernels | None:
    """Return the kernels built into ``folder`` (from an earlier build if there is one), None without a compiler.

    Args:
        folder: where builds are kept.
        machine: names what ``-march=native`` stands for, so that a folder on a shared disk serves unlike machines.
    """
    sources = "".join(path.read_text("utf-8") for path in (*sorted(_SOURCE.parent.glob("*.h")), _SOURCE))
    key = Digest.of_bytes(f"{sources}\n{_FLAGS}\n{machine}".encode())
    library = folder / f"{key.hex[:16]}.so"
    compiler = next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)
    try:
        if not library.exists():
            if compiler is None:
                return None
            _compile(compiler, library)
        return NativeKernels(_load(library, compiler))
    except (OSError, subprocess.SubprocessError):
        return None  # what cannot be built or loaded here is only slower


def _load(library: Path, compiler: str | None) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError:
        if compiler is None:
            raise
    # Damaged, or built against a C library that has gone.
    _compile(compiler, library)
    return ctypes.CDLL(str(library))


def _compile(compiler: str, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    try:
        command = [compiler, *_FLAGS.split(), str(_SOURCE), "-o", scratch]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        Path(scratch).replace(library)
    finally:
        Path(scratch).unlink(missing_ok=True)


class NativeKernels:
    """A set of ``Kernels`` for float32 and bfloat16 tensors on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Declare the library's functions."""
        # Another compiler may add up in another order, so the build names itself by its content.
        self.name = f"native {Digest.of_file(Path(library._name)).short}"
        self._functions = {}
        for dtype in (torch.float32, torch.bfloat16):
            for name, types in _SIGNATURES.items():
                function = getattr(library, f"{name}_{str(dtype).removeprefix('torch.')}")
                function.argtypes, function.restype = types, None
                self._functions[name, dtype] = function

    def norm(self, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None) -> Tensor:
        """See ``Kernels``."""
        out = torch.empty_like(x)
        self._call("norm", x, weight, add, out, *x.shape, eps)
        return out

    def norm_backward(
        self, g: Tensor, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None, *, again: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See ``Kernels``."""
        dx, out = torch.empty_like(x), torch.empty_like(x) if again else None
        self._call("norm_backward", g, x, weight, add, dx, out, *x.shape, eps)
        return dx, out

    def gate(self, both: Tensor, *, gelu: bool) -> Tensor:
        """See ``Kernels``."""
        out = both.new_empty(len(both), both.shape[1] // 2)
        self._call("gate", both, out, *out.shape, gelu)
        return out

    def gate_backward_(self, both: Tensor, g: Tensor, *, gelu: bool) -> Tensor:
        """See ``Kernels``."""
        out = torch.empty_like(g)
        self._call("gate_backward", both, g, out, *out.shape, gelu)
        return out

    def split(self, qkv: Tensor, turns: Turns, places: Places, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Kernels``."""
        batches = places.rows * heads.groups
        q = qkv.new_empty(batches, heads.shared * places.looking, heads.width)
        k, v = (qkv.new_empty(batches, places.length, heads.width) for _ in range(2))
        tables = (turns.cosine, turns.sine, heads.q_weight, heads.k_weight, places.tokens)
        self._call("split", qkv, *tables, q, k, v, *_sizes(places, heads), turns.cosine.shape[1], heads.eps)
        return q, k, v

    def split_backward_(
        self, dqkv: Tensor, slopes: Slopes, qkv: Tensor, turns: Turns, places: Places, heads: Heads
    ) -> None:
        """See ``Kernels``."""
        expected = torch.Size((places.rows * heads.groups, places.length, heads.width))
        if slopes[1].shape != expected or slopes[2].shape != expected:
            raise ValueError(f"split_backward: expected gradients of all {places.length} keys, got {slopes[1].shape}")
        tables = (turns.cosine, turns.sine, heads.q_weight, heads.k_weight, places.tokens)
        sizes = (*_sizes(places, heads), turns.cosine.shape[1], heads.eps)
        self._call("split_backward", *slopes, qkv, *tables, dqkv, *sizes)

    def join_(self, flat: Tensor, padded: Tensor, places: Places, heads: Heads) -> None:
        """See ``Kernels``."""
        self._call("gather", flat, padded, places.tokens, *_sizes(places, heads), False)

    def lay(self, flat: Tensor, places: Places, heads: Heads) -> Tensor:
        """See ``Kernels``."""
        padded = flat.new_empty(places.rows * heads.groups, heads.shared * places.looking, heads.width)
        self._call("gather", flat, padded, places.tokens, *_sizes(places, heads), True)
        return padded

    def softmax_(self, scores: Tensor, mask: Mask, scale: float, cap: float | None) -> Tensor | None:
        """See ``Kernels``."""
        slopes = None if cap is None else torch.empty_like(scores)
        spans = (mask.first_query, mask.first_key, mask.window)
        self._call("softmax", scores, slopes, *scores.shape, *spans, scale, cap or 0.0)
        return slopes

    def softmax_backward_(self, g: Tensor, weights: Tensor, slopes: Tensor | None, mask: Mask, scale: float) -> None:
        """See ``Kernels``."""
        spans = (mask.first_query, mask.first_key, mask.window)
        self._call("softmax_backward", weights, g, slopes, *g.shape, *spans, scale)

    def cross_entropy_(
        self, logits: Tensor, targets: Tensor, factor: float, cap: float | None, *, with_slope: bool
    ) -> Tensor:
        """See ``Kernels``."""
        losses = logits.new_empty(len(targets), dtype=torch.float32)
        self._call("cross_entropy", logits, targets, losses, *logits.shape, factor, cap or 0.0, with_slope)
        return losses

    def _call(self, name: str, first: Tensor, *arguments: Tensor | float | None) -> None:
        # The library trusts its pointers: a strided or float64 tensor would be read as something else.
        known = (first.dtype, torch.float32, torch.int64)
        for tensor in (first, *arguments):
            if isinstance(tensor, Tensor) and not (tensor.is_contiguous() and tensor.dtype in known):
                raise ValueError(f"{name}: expected contiguous tensors of one dtype, with float32 tables")
        raw = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
        self._functions[name, first.dtype](first.data_ptr(), *raw)


def _sizes(places: Places, heads: Heads) -> tuple[int, ...]:
    return (places.rows, places.length, places.prefix, heads.heads, heads.groups, heads.width)
