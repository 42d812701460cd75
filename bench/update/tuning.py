"""How the baselines of ``bench/update.py`` are trained: the same passes as lamina's layers, and a rate of their own."""

from __future__ import annotations

import shutil

from workshop import POINTS, STAGES, Workshop

from lamina.config import Recipe
from lamina.lora.adapter import load_adapter
from lamina.lora.surgery import linear_paths
from lamina.ops.rows import TrainingData, list_rows
from lamina.ops.run import Run, Trained, made_here, run_training
from lamina.ops.train import settle
from lamina.stack.layers import read_layer, stack_digest, write_layer
from lamina.stack.manifest import ROWS_TYPE, WEIGHTS_TYPE, LayerConfig
from lamina.stack.order import add_layer

__all__ = ["continue_adapter", "joint_recipe", "rate_branch"]


def joint_recipe(shop: Workshop, point: int, rate: float) -> Recipe:
    """Return the recipe of joint training on the rows of the first ``point`` stages.

    Passes are the mean of what the defaults choose for each stage alone, by rows, so that both ways see every row
    equally often; rank and batch are left to the defaults; ``rate`` multiplies the learning rate that they choose.
    """
    rows, passes = 0, 0.0
    for stage in STAGES[:point]:
        data = shop.prepared(shop.rows_of(stage), shop.recipe)
        rows += len(data.train)
        passes += len(data.train) * _settled(shop, data, shop.recipe, is_known=stage.is_update).epochs
    recipe = shop.recipe.model_copy(update={"epochs": passes / rows})
    if rate == 1:
        return recipe
    data = shop.prepared(shop.file("joint", str(point)), recipe)
    return recipe.model_copy(update={"learning_rate": rate * _settled(shop, data, recipe).learning_rate})


def rate_branch(place: int, rate: float) -> str:
    """Return the branch of the one adapter after a stage, trained at a rate."""
    return f"sequential-{place}-{round(100 * rate)}"


def continue_adapter(shop: Workshop, place: int, rate: float) -> None:
    """Train the one adapter on through stage ``place`` (from 0), on its new rows alone."""
    branch = rate_branch(place, rate)
    if shop.held(branch) is not None:
        return
    start = None
    if place:
        before = shop.held(rate_branch(place - 1, rate))
        assert before is not None
        start = load_adapter(
            shop.project.store.blob_path(read_layer(shop.project.store, before.layers[0].layer).weights)
        )
    everything = shop.prepared(shop.file("joint", str(POINTS[-1])), shop.recipe)
    rank = _settled(shop, everything, shop.recipe).rank
    data = shop.prepared(shop.rows_of(STAGES[place]), shop.recipe)
    recipe = shop.recipe.model_copy(update={"rank": rank})
    recipe = _settled(shop, data, recipe, is_known=STAGES[place].is_update)
    recipe = recipe.model_copy(update={"learning_rate": rate * recipe.learning_rate})
    run = Run(parent=shop.bare, recipe=recipe, rows=data.train_tokens, heldout=data.heldout_tokens, start=start)
    folder = shop.project.store.root / "runs" / branch
    folder.mkdir(parents=True, exist_ok=True)
    layer = _write(shop, f"sequential {STAGES[place].name}", recipe, data, run_training(shop.project, run, folder))
    shop.keep(branch, add_layer(shop.project.store, shop.bare, layer))
    shutil.rmtree(folder, ignore_errors=True)


def _settled(shop: Workshop, data: TrainingData, recipe: Recipe, *, is_known: bool = False) -> Recipe:
    settled, _ = settle(shop.project, data, (), recipe, {}, is_known=is_known)
    return settled


def _write(shop: Workshop, name: str, recipe: Recipe, data: TrainingData, trained: Trained) -> str:
    store = shop.project.store
    return write_layer(
        store,
        LayerConfig(
            name=name.replace(" ", "-"),
            base=shop.project.base.pin,
            parent=stack_digest(shop.bare),
            weights=store.put_file(trained.weights, WEIGHTS_TYPE).digest,
            rank=recipe.rank,
            modules=tuple(linear_paths(shop.project.loaded.model)),
            recipe=recipe.model_dump(mode="json"),
            recipe_origins={},
            data=(),
            rows=store.put_bytes(list_rows(data), ROWS_TYPE).digest,
            replay=None,
            heldout=None,
            cost=trained.cost,
            heldout_loss_before=trained.loss_before,
            heldout_loss_after=trained.loss_after,
            **made_here(trained.passes),
        ),
    )
