"""What stacks score against what training them took, from what the store has recorded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError

from lamina.errors import StackError
from lamina.lora import WORTH_FOLDING
from lamina.model.folder import stored_tensors
from lamina.ops.lineage import spent_on
from lamina.ops.project import Project
from lamina.ops.unite import JOINED
from lamina.records import CostPoint, Score
from lamina.stack.layers import read_layer
from lamina.stack.manifest import BasePin, LayerConfig, StackConfig
from lamina.stack.store import Store

__all__ = ["count_parameters", "layer_size", "mean_score", "pass_flops", "point_of", "thin_part"]


def point_of(project: Project, name: str, stack: StackConfig, scores: Sequence[Score]) -> CostPoint | None:
    """Return the stack's place in a chart of quality for cost; None if what a layer took is not known.

    Operations are those of ``pass_flops``, the parent's reading of the rows it teaches among them. Layers made from
    others count with what those took.
    """
    base = count_parameters(project.base.folder)
    layers = [read_layer(project.store, entry.layer) for entry in stack.layers]
    sizes = [count_parameters(project.store.blob_path(layer.weights)) for layer in layers]
    trained = dict(pair for entry in stack.layers for pair in _trained(project.store, entry.layer))
    if any(layer.cost.tokens == 0 for layer in trained.values()):
        return None
    below = {entry.layer: sum(sizes[:place]) for place, entry in enumerate(stack.layers)}
    flops = 0.0
    for digest, layer in trained.items():
        thin = thin_part(project.base.pin, base, below.get(digest, 0))
        own = count_parameters(project.store.blob_path(layer.weights))
        flops += pass_flops(trained=layer.cost.tokens, base=base, below=thin, own=own)
        flops += pass_flops(scored=_taught_tokens(layer), base=base, below=thin)
    mean, half = mean_score(scores)
    return CostPoint(
        name=name,
        score=mean,
        low=max(0.0, mean - half),
        high=min(1.0, mean + half),
        tokens=sum(layer.cost.tokens for layer in trained.values()),
        flops=flops,
        money=math.fsum(spent_on(layer, project.settings.cost).money for layer in trained.values()),
        parameters=sum(sizes),
    )


def pass_flops(*, base: int, below: int = 0, own: int = 0, scored: int = 0, trained: int = 0) -> float:
    """Return the floating-point operations that tokens take, attention's own products left out.

    A trained token costs ``4 N + 4 L + 6 P``: forward and backward through the frozen base of N parameters and the
    frozen layers below of L, and for the trained layer of P also its gradient. One that is only scored costs
    ``2 N + 2 L + 2 P``.
    """
    return float(trained * (4 * base + 4 * below + 6 * own) + scored * 2 * (base + below + own))


def thin_part(pin: BasePin, base: int, below: int) -> int:
    """Return how many numbers of frozen layers a token passes beside the base of ``base`` numbers.

    Few are multiplied as they are. Many have been added to the weights, where they cost nothing more, unless those are
    quantised. Which is decided map by map; here, by the layers as a whole.
    """
    return below if pin.quantise != "none" or below <= WORTH_FOLDING * base else 0


def count_parameters(path: Path) -> int:
    """Return how many numbers a safetensors file holds, or a folder of them, without reading the numbers.

    An embedding that is not also the head is left out: looking up a row takes no arithmetic.

    Raises:
        StackError: if a file is damaged.
    """
    sizes: dict[str, int] = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        try:
            sizes |= {name: size for name, (_, size) in stored_tensors(file).items()}
        except (OSError, SafetensorError) as error:
            raise StackError(f"{file}: no readable safetensors header", hint="run `lamina fsck`") from error
    untied = any("lm_head" in name for name in sizes)
    return sum(size for name, size in sizes.items() if not (untied and "embed_tokens" in name))


def _trained(store: Store, digest: str) -> Iterator[tuple[str, LayerConfig]]:
    """Yield the layers whose training made this one: itself, and what it was made from as far as that is here.

    The cost of a squashed or merged layer is the sum of its sources' already: it stands for them if one is gone.
    """
    layer = read_layer(store, digest)
    made_of = () if layer.origin is None else layer.origin.layers
    sources = [source for source in made_of if store.has(source)]
    joined = layer.origin is not None and layer.origin.method in JOINED
    if joined and len(sources) < len(made_of):
        sources = []
    if not sources or (layer.cost.tokens and not joined):
        yield digest, layer
    for source in sources:
        yield from _trained(store, source)


def _taught_tokens(layer: LayerConfig) -> int:
    """Return how many tokens the parent read to teach them: all that was mixed in, once for all passes."""
    if not layer.recipe.get("kl") or not layer.mixed_in:
        return 0
    passes = max(1.0, float(layer.recipe["epochs"]))
    return round(layer.cost.tokens / passes * layer.mixed_in / (1 + layer.mixed_in))


def layer_size(store: Store, digest: str) -> int:
    """Return how many numbers a layer holds."""
    return count_parameters(store.blob_path(read_layer(store, digest).weights))


def mean_score(scores: Sequence[Score]) -> tuple[float, float]:
    """Return the mean over suites and half its 95 % interval; the suites' items are apart, so variances add."""
    halves = [(score.high - score.low) / 2 for score in scores]
    return math.fsum(score.mean for score in scores) / len(scores), math.hypot(*halves) / len(scores)
