"""What the kernels are told besides tensors, and the interface that every set of kernels has.

Legend: T tokens in a pack; n rows padded to L places, of which the first P are shared by all; H heads in G groups of
s = H / G that share keys; d head width; Q = L - P places that look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["WIDEST_HEAD", "Heads", "Kernels", "Mask", "Places", "Slopes", "Turns"]

WIDEST_HEAD = 1024
Slopes = tuple[Tensor, Tensor, Tensor]  # of queries, keys and values, as `split` returns them


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tokens of some rows stand when the rows are laid side by side.

    Attributes:
        tokens: (n, L) int64, the pack's token at each place; -1 where a row has ended.
        prefix: P, how many first places hold tokens that all these rows share and that do not look themselves.
    """

    tokens: Tensor
    prefix: int = 0

    @property
    def rows(self) -> int:
        """Return n."""
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """Return L."""
        return self.tokens.shape[1]

    @property
    def looking(self) -> int:
        """Return Q."""
        return self.length - self.prefix


@dataclass(frozen=True, slots=True)
class Heads:
    """How attention's projections are cut into heads.

    Attributes:
        heads: H.
        groups: G.
        width: d.
        q_weight: (d,) float32, RMS norm of every query head before it is turned (Qwen 3, Gemma 3), or None.
        k_weight: the same for keys.
        eps: of those norms.
    """

    heads: int
    groups: int
    width: int
    q_weight: Tensor | None = None
    k_weight: Tensor | None = None
    eps: float = 0.0

    @property
    def shared(self) -> int:
        """Return s, the heads that share one group's keys."""
        return self.heads // self.groups

    @property
    def line(self) -> int:
        """Return the width of queries, keys and values together."""
        return (self.heads + 2 * self.groups) * self.width


@dataclass(frozen=True, slots=True)
class Turns:
    """The rotary embedding of every token: ``cosine`` and ``sine``, (T, turned) float32, turned <= d.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.4.2; halves are paired, as in transformers.
    """

    cosine: Tensor
    sine: Tensor


@dataclass(frozen=True, slots=True)
class Mask:
    """Who sees whom in a block of scores: query t stands at ``first_query + t``, key c at ``first_key + c``.

    A query sees the keys up to its own place, and no further back than ``window`` places, itself included (0: all).
    """

    first_query: int = 0
    first_key: int = 0
    window: int = 0


class Kernels(Protocol):
    """The element-wise part of a decoder block. Names that end in ``_`` write into their first argument.

    Attributes:
        name: which arithmetic this is; what was computed with another may differ in its last bits.
    """

    name: str

    def norm(self, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None) -> Tensor:
        """Return ``add + x / sqrt(mean(x^2) + eps) * weight``, x (T, width), weight (width,) float32.

        Source: Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.
        """

    def norm_backward(
        self, g: Tensor, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None, *, again: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return ``add`` plus the gradient of x, and with ``again`` the norm's output once more."""

    def gate(self, both: Tensor, *, gelu: bool) -> Tensor:
        """Return ``act(both[:, :F]) * both[:, F:]``, (T, F) of (T, 2F); act is SiLU, or GELU's tanh form.

        Source: Shazeer 2020, arXiv:2002.05202, equation 6.
        """

    def gate_backward_(self, both: Tensor, g: Tensor, *, gelu: bool) -> Tensor:
        """Turn ``both`` into its gradient and return the gate's output once more."""

    def split(self, qkv: Tensor, turns: Turns, places: Places, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (n G, s Q, d), keys and values (n G, L, d), normed and turned, zero at empty places."""

    def split_backward_(
        self, dqkv: Tensor, slopes: Slopes, qkv: Tensor, turns: Turns, places: Places, heads: Heads
    ) -> None:
        """Write the gradient of looking tokens into ``dqkv`` (T, line), and add that of shared ones.

        ``slopes`` are the gradients of what ``split`` returned. A shared token's own row has to come first.
        """

    def join_(self, flat: Tensor, padded: Tensor, places: Places, heads: Heads) -> None:
        """Write ``padded`` (n G, s Q, d) to the tokens of ``flat`` (T, H d)."""

    def lay(self, flat: Tensor, places: Places, heads: Heads) -> Tensor:
        """Return ``flat`` laid out as ``join_`` takes it, zero at empty places: its gradient."""

    def softmax_(self, scores: Tensor, mask: Mask, scale: float, cap: float | None) -> Tensor | None:
        """Turn scores (batches, s, queries, keys) into weights ``softmax(cap * tanh(scale * scores / cap))``.

        Returns the slope of the cap, None without one.
        """

    def softmax_backward_(self, g: Tensor, weights: Tensor, slopes: Tensor | None, mask: Mask, scale: float) -> None:
        """Turn the gradient of the weights into that of the scores."""

    def cross_entropy_(
        self, logits: Tensor, targets: Tensor, factor: float, cap: float | None, *, with_slope: bool
    ) -> Tensor:
        """Return each row's loss in nats, (N,) float32, of logits ``z = cap * tanh(factor * logits / cap)``.

        With ``with_slope`` the logits become their gradients.
        """
