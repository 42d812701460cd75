"""A store with a base and ways to make layers in it; no model is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.refs import Digest
from lamina.stack.layers import stack_digest, write_layer
from lamina.stack.manifest import BasePin, Cost, DataSource, LayerConfig, StackConfig
from lamina.stack.store import Store

Bake = Callable[..., str]


def _digest(text: str) -> str:
    return str(Digest.of_bytes(text.encode()))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path)


@pytest.fixture
def pin() -> BasePin:
    return BasePin(
        name="tiny",
        digest=_digest("base"),
        family="llama",
        template_digest=_digest("template"),
        tokenizer_digest=_digest("tokenizer"),
        source="./tiny",
    )


@pytest.fixture
def bare(pin: BasePin) -> StackConfig:
    return StackConfig(base=pin, layers=())


@pytest.fixture
def bake(store: Store, bare: StackConfig) -> Bake:
    """Return a function that writes a layer called ``name``, trained on ``parent`` (the bare base if not told)."""

    def make(
        name: str, parent: StackConfig = bare, created: str = "2026-01-01T00:00:00+00:00", into: Store = store
    ) -> str:
        config = LayerConfig(
            name=name,
            base=parent.base,
            parent=stack_digest(parent),
            weights=into.put_bytes(f"weights of {name} {created}".encode(), "w").digest,
            rank=4,
            modules=("model.layers.0.mlp.up_proj",),
            recipe={"rank": 4, "rate": 1e-3},
            recipe_origins={"rank": "default"},
            data=(DataSource(file="a.jsonl", digest=_digest("a"), rows=2),),
            rows=into.put_bytes(b"00\n11\n", "r").digest,
            replay=None,
            heldout=None,
            cost=Cost(tokens=10, trained_tokens=7, seconds=0.5, steps=2),
            heldout_loss_before=None,
            heldout_loss_after=1.25,
            machine={"cpu": "x", "cores": 2},
            versions={"lamina": "0.1.0"},
            created=created,
        )
        return write_layer(into, config)

    return make
