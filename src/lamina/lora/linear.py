"""Linear maps with layers summed onto them: a frozen base, frozen layers, and the layer in training, in one product.

    y = x W^T + b  +  (x C^T) D^T  +  s (x A^T) B^T

C and D are the frozen layers laid side by side (``adapter.combine``). Maps that share an input (queries, keys and
values; gate and up) are computed as one. Backward computes no gradient for W, C or D, and keeps only x and the thin
x [C; A]^T: everything else is cheaper to compute again than to hold.

Legend: T tokens, d_in and d_out widths, N the sum of the maps' d_out, R the sum of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lamina.lora import WORTH_FOLDING
from lamina.lora.adapter import Factors
from lamina.lora.quantised import QuantisedLinear

__all__ = ["LoRALinear", "Product", "product_of", "trained_parameters"]


class LoRALinear(nn.Module):
    """A linear map with frozen layers summed onto it and at most one layer in training.

    Attributes:
        original: the module that this one stands in for, kept so that detaching restores it.
        in_features, out_features: d_in and d_out.
        bias: (d_out,) frozen, or None.
        frozen: the frozen layers as one pair of factors, scale folded in, or None.
        trained: (A, B) parameters of the layer in training, or None.
        scale: what the trained pair is multiplied by.
    """

    def __init__(self, original: nn.Module, weight: Tensor | QuantisedLinear, bias: Tensor | None) -> None:
        """Wrap ``original``, whose frozen map is ``x weight^T + bias``; what is quantised is its own weight."""
        super().__init__()
        # Held in a tuple, so that the original's parameters keep their only home in the module tree.
        self._original = (original,)
        self._weight = (weight,)
        self.out_features, self.in_features = map(int, weight.shape)
        self.bias = bias
        self.frozen: Factors | None = None
        self.trained: tuple[nn.Parameter, nn.Parameter] | None = None
        self.scale = 1.0

    @property
    def original(self) -> nn.Module:
        """The module this one stands in for."""
        return self._original[0]

    @property
    def weight(self) -> Tensor:
        """The frozen (d_out, d_in): the original's, or its sum with the frozen layers where that costs less.

        Of a quantised map it is dequantised anew at each reading.
        """
        (held,) = self._weight
        return held.weight if isinstance(held, QuantisedLinear) else held

    @weight.setter
    def weight(self, weight: Tensor) -> None:
        self._weight = (weight,)

    @property
    def is_quantised(self) -> bool:
        """Whether the frozen weight is held quantised."""
        return isinstance(self._weight[0], QuantisedLinear)

    def freeze(self, factors: Factors) -> None:
        """Sum ``factors`` onto the map for good.

        Few ranks stay factors, exact and thin. Many would cost more than the map itself at every token; they are added
        to the weight, in float32, and rounded once to its dtype, up or down by chance: a weight that lies on bfloat16's
        grid swallows every addition below half a step, but on average not this one. A quantised weight has no place for
        a sum: there they stay factors, however many (law 9).
        """
        d_out, d_in = self.out_features, self.in_features
        if self.is_quantised or factors.rank * (d_out + d_in) <= WORTH_FOLDING * d_out * d_in:
            (held,) = self._weight
            self.frozen = Factors(*(factor.to(held.device, held.dtype) for factor in (factors.A, factors.B)))
            return
        A, B = (factor.to(self.weight.device, torch.float32) for factor in (factors.A, factors.B))
        self.weight = _round(torch.addmm(self.weight.float(), B, A), self.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., d_out) for ``x`` (..., d_in)."""
        y: Tensor = _Applied.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]), product_of([self], x.dtype), *trained_parameters([self])
        )
        return y.view(*x.shape[:-1], y.shape[-1])


@dataclass(frozen=True, slots=True)
class _Part:
    """One map's share of a product: its columns of y, its columns of h, its (d_out, r) up-projection, and the trained.

    ``trained`` are the columns of h whose gradients are wanted, None when nothing is in training.
    """

    out: slice
    inner: slice
    B: Tensor
    trained: slice | None
    scale: float


@dataclass(frozen=True, slots=True)
class Product:
    """Maps that share an input, ready for one pass.

    Attributes:
        dense: returns the frozen weight, (N, d_in); called for each product, so that a quantised one need not be kept.
        width: N.
        bias: (N,) or None.
        A: (R, d_in), all down-projections, or None without layers.
        parts: one for each map that has layers.
    """

    dense: Callable[[], Tensor]
    width: int
    bias: Tensor | None
    A: Tensor | None
    parts: tuple[_Part, ...]

    def forward(self, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return ``add`` plus the maps' outputs, (T, N), and h = x A^T, (T, R), which backward asks for."""
        if self.A is None:
            y = self._frozen(self.bias, x)
            return (y if add is None else y.add_(add)), None
        h = x @ self.A.t()
        thin = self._start(len(x), x)
        for part in self.parts:
            if self.bias is None:
                torch.mm(h[:, part.inner], part.B.t(), out=thin[:, part.out])
            else:
                thin[:, part.out].addmm_(h[:, part.inner], part.B.t())
        y = self._frozen(thin, x)
        return (y if add is None else y.add_(add)), h

    def pull(self, g: Tensor, *, need_dx: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x (None if not needed) and of h, for the gradient ``g`` (T, N) of the outputs."""
        if self.A is None:
            return (g @ self.dense() if need_dx else None), None
        dh = g.new_empty(len(g), len(self.A))
        for part in self.parts:
            torch.mm(g[:, part.out], part.B, out=dh[:, part.inner])
        return (torch.addmm(dh @ self.A, g, self.dense()) if need_dx else None), dh

    def _frozen(self, start: Tensor | None, x: Tensor) -> Tensor:
        # The thin sum goes in first and is rounded with the large one, once. Added to a result that already lies on
        # bfloat16's grid, whatever is smaller than half a step would vanish, and a young layer is.
        return x @ self.dense().t() if start is None else torch.addmm(start, x, self.dense().t())

    def _start(self, rows: int, like: Tensor) -> Tensor:
        if self.bias is not None:
            return self.bias.repeat(rows, 1)
        covered = sum(part.out.stop - part.out.start for part in self.parts)
        return like.new_empty(rows, self.width) if covered == self.width else like.new_zeros(rows, self.width)

    def gradients(self, g: Tensor, x: Tensor, h: Tensor | None, dh: Tensor | None) -> list[Tensor]:
        """Return the float32 gradients of every trained A and B, in order."""
        found: list[Tensor] = []
        for part in self.parts:
            if part.trained is not None and h is not None and dh is not None:
                found.append((dh[:, part.trained].t() @ x).float())
                found.append((h[:, part.trained].t() @ g[:, part.out]).t().float().mul_(part.scale))
        return found


class _Applied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Product, *parameters: nn.Parameter) -> Tensor:
        y, h = product.forward(x)
        ctx.save_for_backward(x if parameters else None, h)
        ctx.product = product
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, h = ctx.saved_tensors
        g = upstream[0].contiguous()
        dx, dh = ctx.product.pull(g, need_dx=ctx.needs_input_grad[0])
        return dx, None, *([] if x is None else ctx.product.gradients(g, x, h, dh))


def trained_parameters(maps: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Return A and B of every map that has a layer in training, in order."""
    return [
        factor for each in maps if isinstance(each, LoRALinear) and each.trained is not None for factor in each.trained
    ]


def product_of(maps: Sequence[nn.Module], dtype: torch.dtype) -> Product:
    """Return what ``maps``, which share an input, are at this moment, as one product."""
    downs: list[Tensor] = []
    parts: list[_Part] = []
    column, rank = 0, 0
    for each in maps:
        out = slice(column, column := column + _width(each))
        if isinstance(each, LoRALinear) and (each.frozen is not None or each.trained is not None):
            part = _part(each, out, rank, dtype, downs)
            parts.append(part)
            rank = part.inner.stop
    A = None if not downs else downs[0] if len(downs) == 1 else torch.cat(downs)
    return Product(_dense(maps), column, _biases(maps), A, tuple(parts))


def _part(each: LoRALinear, out: slice, start: int, dtype: torch.dtype, downs: list[Tensor]) -> _Part:
    ups: list[Tensor] = []
    rank, trained = start, None
    if each.frozen is not None:
        downs.append(each.frozen.A)
        ups.append(each.frozen.B)
        rank += each.frozen.rank
    if each.trained is not None:
        A, B = each.trained
        downs.append(A.detach().to(dtype))
        ups.append((B.detach() * each.scale).to(dtype))
        trained = slice(rank, rank := rank + A.shape[0])
    return _Part(out, slice(start, rank), ups[0] if len(ups) == 1 else torch.cat(ups, 1), trained, each.scale)


def _round(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``exact`` (float32) in ``dtype``; in bfloat16 rounded up or down with the odds of its distance.

    Source: stochastic rounding, Gupta et al. 2015, arXiv:1502.02551, section 3. The draw is the same every time.
    """
    if dtype != torch.bfloat16:
        return exact.to(dtype)
    draw = torch.Generator(exact.device).manual_seed(0)
    chance = torch.randint(0, 1 << 16, exact.shape, generator=draw, device=exact.device, dtype=torch.int32)
    # The upper half of a float32 is a bfloat16: a carry out of the lower half rounds up.
    return ((exact.contiguous().view(torch.int32) + chance) & -(1 << 16)).view(torch.float32).to(dtype)


def _width(each: nn.Module) -> int:
    width: int = each.out_features  # type: ignore[assignment]
    return width


def _weight(each: nn.Module) -> Tensor:
    weight: Tensor = each.weight  # type: ignore[assignment]
    return weight.detach()


def _biases(maps: Sequence[nn.Module]) -> Tensor | None:
    biases: list[Tensor | None] = [each.bias for each in maps]  # type: ignore[misc]
    known = next((bias for bias in biases if bias is not None), None)
    if known is None:
        return None
    pairs = zip(maps, biases, strict=True)
    return torch.cat([known.new_zeros(_width(each)) if bias is None else bias.detach() for each, bias in pairs])


def _dense(maps: Sequence[nn.Module]) -> Callable[[], Tensor]:
    """Return a function that gives the maps' weights as one matrix, kept unless one of them is quantised."""
    if any(isinstance(each, QuantisedLinear) or (isinstance(each, LoRALinear) and each.is_quantised) for each in maps):
        if len(maps) == 1:
            return lambda: _weight(maps[0])
        return lambda: torch.cat([_weight(each) for each in maps])
    together = _side_by_side(maps, [_weight(each) for each in maps])
    return lambda: together


def _side_by_side(maps: Sequence[nn.Module], weights: Sequence[Tensor]) -> Tensor:
    """Return the weights as one matrix, of which the maps' own weights are views from then on."""
    first = weights[0]
    if len(weights) == 1:
        return first
    if _are_adjacent(weights):
        return first.as_strided((sum(map(len, weights)), first.shape[1]), (first.shape[1], 1))
    together = torch.cat(list(weights))
    for each, piece in zip(maps, together.split([len(weight) for weight in weights]), strict=True):
        if isinstance(each, LoRALinear):
            each.weight = piece
        else:
            each.weight.data = piece
    return together


def _are_adjacent(weights: Sequence[Tensor]) -> bool:
    storage, end = weights[0].untyped_storage().data_ptr(), weights[0].data_ptr()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == storage
        if not (same and weight.is_contiguous() and weight.data_ptr() == end):
            return False
        end += weight.nbytes
    return True
