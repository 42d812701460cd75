"""The kernels: torch's own against plain formulas and autograd, the compiled ones against torch's.

In bfloat16 a kernel's result is the float32 one, rounded: once wherever one number is computed from stored ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

from lamina.kernels.native import NativeKernels
from lamina.kernels.reference import TorchKernels
from lamina.kernels.shapes import Heads, Kernels, Mask, Places, Slopes, Turns

DTYPES = (torch.float32, torch.bfloat16)
TORCH = TorchKernels()
drawn = settings(deadline=None, max_examples=25)
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="no C++ compiler on this machine"
)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32, spread: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread).to(dtype)


def check(found: Tensor | None, exact: Tensor | None, *, roundings: int = 1, met: float = 0.0) -> None:
    """Assert that ``found`` is the float32 ``exact`` to float32 rounding, or rounded to bfloat16 so many times.

    Where roundings follow one another, an early one counts relative to the largest number it ``met``.
    """
    assert (found is None) == (exact is None)
    if found is None or exact is None:
        return
    assert found.shape == exact.shape
    assert exact.dtype == torch.float32
    scale = float(exact.abs().max()) if exact.numel() else 0.0
    if found.dtype == torch.float32:
        torch.testing.assert_close(found, exact, atol=2e-6 * max(1.0, scale), rtol=2e-5)
        return
    size = exact.abs() if roundings == 1 else torch.full_like(exact, max(scale, met))
    excess = (found.float() - exact).abs() - roundings * 2.0**-8 * size
    assert float(excess.max()) <= 1e-5 * max(1.0, scale)


def widened(*tensors: Tensor | None) -> list[Tensor]:
    """Return float32 copies."""
    return [None if tensor is None else tensor.to(torch.float32, copy=True) for tensor in tensors]  # type: ignore[misc]


# Shapes


@dataclass(frozen=True)
class Rows:
    """A pack of rows that share their first tokens, and its projections."""

    buckets: list[Places]
    heads: Heads
    turns: Turns
    qkv: Tensor

    @property
    def slopes(self) -> list[Slopes]:
        """Return random gradients of what ``split`` returns for each bucket; empty places have none."""
        return [
            tuple(
                normal(*out.shape, seed=seed, dtype=self.qkv.dtype) * (out != 0).any(-1, keepdim=True)
                for seed, out in enumerate(TORCH.split(self.qkv, self.turns, places, self.heads))
            )
            for places in self.buckets
        ]  # type: ignore[return-value]


@st.composite
def rows_of_heads(draw: st.DrawFn) -> Rows:
    groups, shared = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    half = draw(st.integers(1, 9))
    turned = 2 * draw(st.integers(1, half))
    prefix, own = draw(st.integers(0, 5)), draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 1000))
    tokens, next_token = [], prefix
    for length in own:
        places = [*range(prefix), *range(next_token, next_token + length)]
        tokens.append(places + [-1] * (prefix + max(own) - len(places)))
        next_token += length
    norms = [normal(2 * half, seed=seed + 1, spread=0.3) + 1 if draw(st.booleans()) else None for _ in range(2)]
    heads = Heads(groups * shared, groups, 2 * half, *norms, eps=1e-5)
    angles = torch.cat([normal(next_token, turned // 2, seed=seed + 2, spread=3.0)] * 2, -1)
    buckets = [Places(torch.tensor(tokens), prefix)]
    if prefix:
        buckets.insert(0, Places(torch.arange(prefix)[None]))
    qkv = normal(next_token, heads.line, seed=seed, dtype=dtype)
    return Rows(buckets, heads, Turns(angles.cos(), angles.sin()), qkv)


@st.composite
def masks(draw: st.DrawFn) -> tuple[tuple[int, ...], Mask]:
    """Draw the shape of a block of scores and its mask; every query sees at least itself."""
    queries, first_query, window = draw(st.integers(1, 12)), draw(st.integers(0, 12)), draw(st.integers(0, 9))
    first_key = max(0, first_query - window + 1) if window else 0
    first_key = draw(st.integers(0, first_key))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), queries, first_query + queries - first_key)
    return shape, Mask(first_query, first_key, window)


sizes = st.tuples(st.integers(1, 5), st.integers(1, 70))
seeds = st.integers(0, 1000)
dtypes = st.sampled_from(DTYPES)
caps = st.sampled_from([None, 3.0, 30.0])
spreads = st.sampled_from([0.1, 1.0, 20.0])


# Torch's own, against plain formulas


@drawn
@given(sizes, seeds, st.booleans())
def test_norm_is_torchs_rms_norm_and_its_gradient(size: tuple[int, int], seed: int, adds: bool) -> None:
    x, g = normal(*size, seed=seed).requires_grad_(), normal(*size, seed=seed + 1)
    weight = normal(size[1], seed=seed + 2)
    add = normal(*size, seed=seed + 3) if adds else None
    normed = F.rms_norm(x, size[1:], weight, 1e-5)
    check(TORCH.norm(x.detach(), weight, 1e-5, add), normed.detach() if add is None else normed.detach() + add)
    (slope,) = torch.autograd.grad(normed, x, g)
    found, again = TORCH.norm_backward(g, x.detach(), weight, 1e-5, add, again=True)
    check(found, slope if add is None else slope + add)
    check(again, normed.detach())


@drawn
@given(sizes, seeds, st.booleans(), spreads)
def test_gate_is_its_formula_and_its_gradient(size: tuple[int, int], seed: int, gelu: bool, spread: float) -> None:
    both = normal(size[0], 2 * size[1], seed=seed, spread=spread).requires_grad_()
    g = normal(*size, seed=seed + 1)
    x, up = both[:, : size[1]], both[:, size[1] :]
    act = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) if gelu else x * torch.sigmoid(x)
    check(TORCH.gate(both.detach(), gelu=gelu), (act * up).detach())
    (slope,) = torch.autograd.grad(act * up, both, g)
    changed = both.detach().clone()
    check(TORCH.gate_backward_(changed, g, gelu=gelu), (act * up).detach())
    check(changed, slope)


def plain_split(rows: Rows, qkv: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``split`` does as transformers would: row by row, with its own rotary embedding."""
    heads, outs = rows.heads, []
    for tokens in places.tokens:
        there = tokens[tokens >= 0]
        lines = qkv[there].view(len(there), -1, heads.width).transpose(0, 1)[None]
        q, k, v = lines.split([heads.heads, heads.groups, heads.groups], 1)
        q = q if heads.q_weight is None else F.rms_norm(q, (heads.width,), heads.q_weight, heads.eps)
        k = k if heads.k_weight is None else F.rms_norm(k, (heads.width,), heads.k_weight, heads.eps)
        q, k = apply_rotary_pos_emb(q, k, rows.turns.cosine[there][None], rows.turns.sine[there][None])
        empty = (0, 0, 0, places.length - len(there))
        outs.append((F.pad(q[0, :, places.prefix :], empty), F.pad(k[0], empty), F.pad(v[0], empty)))
    q, k, v = (torch.cat(parts) for parts in zip(*outs, strict=True))
    return q.reshape(len(k), -1, heads.width), k, v


@drawn
@given(rows_of_heads())
def test_split_is_transformers_rotary_embedding_and_its_gradient(rows: Rows) -> None:
    leaf = rows.qkv.float().requires_grad_()
    wide = Rows(rows.buckets, rows.heads, rows.turns, leaf.detach())
    expected = [out for places in wide.buckets for out in plain_split(wide, leaf, places)]
    found = [out for places in wide.buckets for out in TORCH.split(wide.qkv, wide.turns, places, wide.heads)]
    for ours, theirs in zip(found, expected, strict=True):
        check(ours, theirs.detach())
    upstream = wide.slopes
    (slope,) = torch.autograd.grad(expected, leaf, [each for slopes in upstream for each in slopes])
    dqkv = torch.zeros_like(wide.qkv)
    for places, slopes in zip(wide.buckets, upstream, strict=True):
        TORCH.split_backward_(dqkv, slopes, wide.qkv, wide.turns, places, wide.heads)
    check(dqkv, slope)


@drawn
@given(rows_of_heads())
def test_lay_undoes_join_and_is_its_gradient(rows: Rows) -> None:
    heads = rows.heads
    flat = torch.full((len(rows.qkv), heads.heads * heads.width), torch.nan)
    laid = [normal(*TORCH.split(rows.qkv, rows.turns, places, heads)[0].shape, seed=4) for places in rows.buckets]
    for places, padded in zip(rows.buckets, laid, strict=True):
        TORCH.join_(flat, padded, places, heads)
    assert not flat.isnan().any()  # every token looks in exactly one bucket
    g = normal(*flat.shape, seed=5)
    product = 0.0
    for places, padded in zip(rows.buckets, laid, strict=True):
        there = (places.tokens[:, places.prefix :] >= 0)[:, None, :, None]
        shape = (places.rows, heads.heads, places.looking, heads.width)
        back = TORCH.lay(flat, places, heads).view(shape)
        assert torch.equal(back, torch.where(there, padded.view(shape), 0.0))
        product += float((TORCH.lay(g, places, heads) * padded).sum())
    assert product == pytest.approx(float((flat * g).sum()), abs=1e-3)


def plain_softmax(scores: Tensor, mask: Mask, scale: float, cap: float | None) -> Tensor:
    logits = scores * scale if cap is None else cap * torch.tanh(scores * scale / cap)
    for query in range(scores.shape[2]):
        for key in range(scores.shape[3]):
            back = (mask.first_query + query) - (mask.first_key + key)
            if back < 0 or (mask.window and back >= mask.window):
                logits = logits.index_put((*_every(logits), torch.tensor(query), torch.tensor(key)), _NEVER)
    return torch.softmax(logits, -1)


_NEVER = torch.tensor(float("-inf"), dtype=torch.float64)


def _every(scores: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(scores.shape[0])[:, None], torch.arange(scores.shape[1])[None]


@settings(deadline=None, max_examples=15)
@given(masks(), seeds, caps, spreads)
def test_softmax_is_the_masked_softmax_and_its_gradient(
    block: tuple[tuple[int, ...], Mask], seed: int, cap: float | None, spread: float
) -> None:
    shape, mask = block
    scores, g = normal(*shape, seed=seed, spread=spread), normal(*shape, seed=seed + 1)
    leaf = scores.double().requires_grad_()
    expected = plain_softmax(leaf, mask, 0.7, cap)
    (slope,) = torch.autograd.grad(expected, leaf, g.double())
    bends = TORCH.softmax_(scores, mask, 0.7, cap)
    check(scores, expected.detach().float())
    TORCH.softmax_backward_(g, scores, bends, mask, 0.7)
    check(g, slope.float())


@drawn
@given(sizes, seeds, caps, st.sampled_from([0.25, 1.0, 2.0]), spreads)
def test_cross_entropy_is_torchs_and_its_gradient(
    size: tuple[int, int], seed: int, cap: float | None, factor: float, spread: float
) -> None:
    logits = normal(*size, seed=seed, spread=spread)
    targets = torch.randint(size[1], (size[0],), generator=torch.Generator().manual_seed(seed))
    leaf = logits.double().requires_grad_()
    z = leaf * factor if cap is None else cap * torch.tanh(leaf * factor / cap)
    losses = F.cross_entropy(z, targets, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), leaf)
    before = logits.clone()
    check(TORCH.cross_entropy_(logits, targets, factor, cap, with_slope=False), losses.detach().float())
    assert torch.equal(logits, before)
    check(TORCH.cross_entropy_(logits, targets, factor, cap, with_slope=True), losses.detach().float())
    check(logits, slope.float())


def test_torchs_own_in_bfloat16_are_their_float32_selves_rounded() -> None:
    x, g, both = (normal(6, 34, seed=seed, dtype=torch.bfloat16) for seed in range(3))
    weight = normal(34, seed=3)
    check(TORCH.norm(x, weight, 1e-5), TORCH.norm(x.float(), weight, 1e-5))
    found, exact = TORCH.norm_backward(g, x, weight, 1e-5), TORCH.norm_backward(g.float(), x.float(), weight, 1e-5)
    check(found[0], exact[0])
    check(TORCH.gate(both, gelu=True), TORCH.gate(both.float(), gelu=True), roundings=2)
    scores = normal(2, 3, 5, 5, seed=4, dtype=torch.bfloat16)
    (wide,) = widened(scores)
    TORCH.softmax_(scores, Mask(), 0.5, 30.0)
    TORCH.softmax_(wide, Mask(), 0.5, 30.0)
    check(scores, wide)


# The compiled ones, against torch's


@needs_compiler
@drawn
@given(sizes, seeds, st.booleans(), dtypes)
@example((1, 1), 0, False, torch.float32)
@example((3, 1000), 0, True, torch.bfloat16)
def test_native_norm(native: NativeKernels, size: tuple[int, int], seed: int, adds: bool, dtype: torch.dtype) -> None:
    x, g, add = (normal(*size, seed=seed + each, dtype=dtype) for each in range(3))
    added, weight = add if adds else None, normal(size[1], seed=seed + 3)
    wide_x, wide_g, wide_add = widened(x, g, added)
    check(native.norm(x, weight, 1e-5, added), TORCH.norm(wide_x, weight, 1e-5, wide_add))
    found = native.norm_backward(g, x, weight, 1e-5, added, again=True)
    exact = TORCH.norm_backward(wide_g, wide_x, weight, 1e-5, wide_add, again=True)
    for ours, theirs in zip(found, exact, strict=True):
        check(ours, theirs)
    assert native.norm_backward(g, x, weight, 1e-5, added)[1] is None


@needs_compiler
@drawn
@given(sizes, seeds, st.booleans(), spreads, dtypes)
def test_native_gate(
    native: NativeKernels, size: tuple[int, int], seed: int, gelu: bool, spread: float, dtype: torch.dtype
) -> None:
    both = normal(size[0], 2 * size[1], seed=seed, dtype=dtype, spread=spread)
    g = normal(*size, seed=seed + 1, dtype=dtype)
    check(native.gate(both, gelu=gelu), TORCH.gate(both.float(), gelu=gelu))
    (wide,) = widened(both)
    exact = TORCH.gate_backward_(wide, g.float(), gelu=gelu)
    check(native.gate_backward_(both, g, gelu=gelu), exact)
    check(both, wide)


@needs_compiler
@drawn
@given(rows_of_heads())
def test_native_split(native: NativeKernels, rows: Rows) -> None:
    turns, heads = rows.turns, rows.heads
    # A norm's gradient passes through the turned one, and a shared token's is summed over rows and buckets.
    dqkv, exact = torch.zeros_like(rows.qkv), torch.zeros_like(rows.qkv, dtype=torch.float32)
    for places, slopes in zip(rows.buckets, rows.slopes, strict=True):
        found = native.split(rows.qkv, turns, places, heads)
        for ours, theirs in zip(found, TORCH.split(rows.qkv.float(), turns, places, heads), strict=True):
            check(ours, theirs)
        native.split_backward_(dqkv, slopes, rows.qkv, turns, places, heads)
        TORCH.split_backward_(exact, widened(*slopes), rows.qkv.float(), turns, places, heads)
    check(dqkv, exact, roundings=4)


@needs_compiler
@drawn
@given(rows_of_heads())
def test_native_join_and_lay_are_equal_to_torchs(native: NativeKernels, rows: Rows) -> None:
    heads, found = rows.heads, []
    for kernels in (native, TORCH):
        flat = torch.zeros(len(rows.qkv), heads.heads * heads.width, dtype=rows.qkv.dtype)
        for places in rows.buckets:
            shape = (places.rows * heads.groups, heads.shared * places.looking, heads.width)
            kernels.join_(flat, normal(*shape, seed=6, dtype=rows.qkv.dtype), places, heads)
        found.append([flat, *(kernels.lay(flat, places, heads) for places in rows.buckets)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def softmax_and_gradient(
    kernels: Kernels, scores: Tensor, g: Tensor, mask: Mask, cap: float | None
) -> tuple[Tensor, Tensor]:
    weights, slope = scores.clone(), g.clone()
    bends = kernels.softmax_(weights, mask, 0.7, cap)
    kernels.softmax_backward_(slope, weights, bends, mask, 0.7)
    return weights, slope


@needs_compiler
@drawn
@given(masks(), seeds, caps, spreads, dtypes)
def test_native_softmax(
    native: NativeKernels,
    block: tuple[tuple[int, ...], Mask],
    seed: int,
    cap: float | None,
    spread: float,
    dtype: torch.dtype,
) -> None:
    shape, mask = block
    scores, g = normal(*shape, seed=seed, dtype=dtype, spread=spread), normal(*shape, seed=seed + 1, dtype=dtype)
    found = softmax_and_gradient(native, scores, g, mask, cap)
    exact = softmax_and_gradient(TORCH, scores.float(), g.float(), mask, cap)
    # A capped logit may be rounded before its exponential is taken: an error of up to the cap's half unit.
    roundings = 1 if cap is None else 1 + int(cap)
    check(found[0], exact[0], roundings=roundings)
    # The gradient is what is left of upstream gradients after weights, as stored, have summed them.
    check(found[1], exact[1], roundings=2 + roundings, met=float(g.abs().max()))
    assert not found[0][exact[0] == 0].any()


@needs_compiler
@drawn
@given(sizes, seeds, caps, st.sampled_from([0.25, 1.0, 2.0]), spreads, dtypes)
@example((2, 9001), 0, None, 1.0, 1.0, torch.float32)
@example((2, 9001), 0, 30.0, 0.5, 20.0, torch.bfloat16)
@example((1, 35), 35, None, 2.0, 20.0, torch.float32)
def test_native_cross_entropy(
    native: NativeKernels,
    size: tuple[int, int],
    seed: int,
    cap: float | None,
    factor: float,
    spread: float,
    dtype: torch.dtype,
) -> None:
    logits = normal(*size, seed=seed, dtype=dtype, spread=spread)
    targets = torch.randint(size[1], (size[0],), generator=torch.Generator().manual_seed(seed))
    before, (wide,) = logits.clone(), widened(logits)
    exact = TORCH.cross_entropy_(wide, targets, factor, cap, with_slope=True)
    check(native.cross_entropy_(logits, targets, factor, cap, with_slope=False), exact)
    assert torch.equal(logits, before)
    check(native.cross_entropy_(logits, targets, factor, cap, with_slope=True), exact)
    check(logits, wide)
