"""Frozen linear maps held in 8 or 4 bits, and dequantised for each product alone.

    int8    w ~ c * max|row| / 127         c in -127..127, one float32 a row
    nf4     w ~ code[c] * max|block|       c in 0..15, one float32 a block of 64 weights

The trained factors, the norms, the embeddings and the head stay as they are. What a product multiplies by exists only
while it does: backward dequantises again.

Source: Dettmers et al. 2023 (QLoRA, arXiv:2305.14314, section 3), without its second quantisation of the block maxima;
rows of 8 bits: Dettmers et al. 2022 (LLM.int8(), arXiv:2208.07339, section 2.1), without its outliers.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lamina.errors import MachineError

__all__ = ["SCHEMES", "QuantisedLinear", "require_quantiser"]

# What a base's digest says of how it is held: a scheme that gives other weights needs another text.
SCHEMES = {"int8": "int8, a scale per row", "nf4": "nf4, a scale per block of 64"}
_BLOCK = 64
_MOST = 127


class QuantisedLinear(nn.Module):
    """A frozen linear map whose weight is held quantised.

    Attributes:
        in_features, out_features: d_in and d_out.
        dtype: what the weight is dequantised to.
        codes: the quantised weight, (d_out, d_in) int8, or packed two to a byte for nf4.
        scales: float32, (d_out, 1) for int8, one for each block of 64 for nf4.
        bias: (d_out,) or None.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, how: Literal["int8", "nf4"]) -> None:
        """Quantise ``weight``, (d_out, d_in), where it lies, and keep no reference to it.

        Raises:
            MachineError: if ``how`` is nf4 and bitsandbytes is not installed.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.how = how
        codes, scales = _to_int8(weight) if how == "int8" else _to_nf4(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)

    @property
    def shape(self) -> tuple[int, int]:
        """The weight's, (d_out, d_in)."""
        return self.out_features, self.in_features

    @property
    def device(self) -> torch.device:
        """Where the codes lie."""
        return self.codes.device

    @property
    def weight(self) -> Tensor:
        """The weight, (d_out, d_in), dequantised anew at each reading."""
        if self.how == "int8":
            return _from_int8(self.codes, self.scales).to(self.dtype)
        return _from_nf4(self.codes, self.scales, self.shape, self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., d_out) for ``x`` (..., d_in)."""
        y: Tensor = _Applied.apply(x, self)  # type: ignore[no-untyped-call]
        return y


class _Applied(torch.autograd.Function):
    """A product that keeps the codes for backward, where torch's own would keep the dense weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: QuantisedLinear) -> Tensor:
        ctx.linear = linear
        return F.linear(x, linear.weight, linear.bias)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0] @ ctx.linear.weight, None


def require_quantiser(how: str) -> None:
    """Check that what ``how`` needs is installed.

    Raises:
        MachineError: if it is not.
    """
    if how == "nf4":
        _bitsandbytes()


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    exact = weight.float()
    # A row of zeros has no largest weight to divide by.
    scales = exact.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / _MOST
    return (exact / scales).round().clamp(-_MOST, _MOST).to(torch.int8), scales


def _from_int8(codes: Tensor, scales: Tensor) -> Tensor:
    return torch.mul(codes, scales)


def _to_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    # The library's CPU kernel takes a block for part of one row, and is wrong where rows are no multiple of blocks.
    flat = weight.flatten()
    blocks = F.pad(flat, (0, -len(flat) % _BLOCK)).view(-1, _BLOCK)
    codes, state = _bitsandbytes().quantize_4bit(blocks, blocksize=_BLOCK, quant_type="nf4")
    return codes, state.absmax


def _from_nf4(codes: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    library = _bitsandbytes()
    whole = torch.Size((len(scales), _BLOCK))
    state = library.QuantState(absmax=scales, shape=whole, dtype=dtype, blocksize=_BLOCK, quant_type="nf4")
    blocks: Tensor = library.dequantize_4bit(codes, state)
    return blocks.flatten()[: shape[0] * shape[1]].view(shape)


@cache
def _bitsandbytes() -> Any:
    # Without the package `kernels` it would warn of a product that is not used here; with it, fetch that from a hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with _hidden("kernels"):
            from bitsandbytes import functional
    except ImportError as error:
        raise MachineError(
            'quantise = "nf4" needs the package bitsandbytes, which is not installed here: pip install '
            "'lamina[quantise]'",
            hint="pip install 'lamina[quantise]', or quantise = \"int8\", which needs nothing",
        ) from error
    return functional


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let imports of ``package`` fail for a while."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == package}
    for name in before:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(before)
