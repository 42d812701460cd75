"""A branch's requests go through its router; a stack that is spelled out is taken as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import StackError
from lamina.route.keep import read_decision, write_decision
from lamina.route.router import READ_TOKENS
from lamina.serve.engine import EngineError, RefusedError
from lamina.serve.llama_embed import EMBEDDED_TOKENS
from lamina.serve.respond import STACK_HEADER
from lamina.stack.layers import read_layer
from lamina.stack.lineage import get_ref
from lamina.stack.manifest import StackConfig
from lamina.stack.store import Store

FOX, DOG, FAR = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
WHOLE = ["fox", "dog"]


@pytest.fixture
def routed(site: Any, grow: Callable[..., StackConfig], route: Callable[[Path, str, StackConfig], None]) -> Any:
    """A site whose branch has two layers and a router: a fox's prompts get the layer ``fox`` alone, a dog's ``dog``."""
    grow("fox")
    route(site.folder, "main", grow("dog"))
    site.says("the fox")
    return site


def answered(site: Any, **body: Any) -> list[str]:
    """Return the names of the layers that answered a chat request, which its header says too."""
    said = site.chat(**body)
    assert said.status_code == 200, said.text
    names = {layer: read_layer(Store.find(site.folder), layer).name for layer, _ in site.engine.seen[-1].layers}
    found = [names[digest] for digest, _ in site.engine.seen[-1].layers]
    assert said.headers[STACK_HEADER] == "+".join(["base", *found])
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_the_router_picks_by_what_the_bare_base_makes_of_the_prompt(routed: Any, stream: bool) -> None:
    for point, names in ((FOX, ["fox"]), (DOG, ["dog"]), (FAR, WHOLE)):
        routed.engine.vector = point
        assert answered(routed, stream=stream) == names
        assert routed.engine.embedded == [(routed.engine.seen[-1].prompt, ())]  # one, of what the answer follows
        routed.engine.embedded.clear()


def test_the_fingerprint_is_that_of_the_stack_that_answers(routed: Any) -> None:
    def fingerprint(point: list[float], model: str = "main") -> str:
        routed.engine.vector = point
        said: str = routed.chat(model=model).json()["system_fingerprint"]
        return said

    whole = fingerprint(FAR)
    assert len({whole, fingerprint(FOX), fingerprint(DOG)}) == 3
    assert fingerprint(FOX, "base+fox+dog") == whole
    assert fingerprint(FOX) == fingerprint(FAR, "base+fox")


def test_an_explicit_stack_is_never_routed(routed: Any, cli: Callable[..., Any]) -> None:
    assert cli("tag", "v1").code == 0
    assert cli("branch", "other", "main").code == 0
    store = Store.find(routed.folder)
    digest, decision = get_ref(store, "main"), read_decision(store, "main")
    assert decision is not None
    write_decision(store, "v1", decision)  # as a branch of that name would have left it
    routed.engine.vector = DOG
    for model in ("base+fox+dog", "v1", "main@v1", "main@dog", "main~0", digest, "other"):
        assert answered(routed, model=model) == WHOLE, model
    assert answered(routed, model="main@fox") == ["fox"]
    assert answered(routed, model="base") == []
    assert routed.engine.embedded == []
    assert answered(routed, model="main") == ["dog"]


def test_running_text_and_embeddings_are_not_routed(routed: Any) -> None:
    routed.engine.vector = DOG
    said = routed.ask("POST", "/v1/completions", json={"model": "main", "prompt": "a dog"})
    assert said.headers[STACK_HEADER] == "base+fox+dog"
    assert len(routed.engine.seen[-1].layers) == 2
    assert routed.ask("POST", "/v1/embeddings", json={"model": "main", "input": "a dog"}).status_code == 200
    assert [len(layers) for _, layers in routed.engine.embedded] == [2]


def test_a_decision_counts_from_the_next_request_on(routed: Any, grow: Callable[..., Any], cli: Any) -> None:
    routed.engine.vector = DOG
    assert cli("route", "--disable").code == 0
    assert answered(routed) == WHOLE
    assert cli("route", "--enable").code == 0
    assert answered(routed) == ["dog"]
    grow("cat")  # which makes the router stale
    assert answered(routed) == [*WHOLE, "cat"]
    assert cli("undo").code == 0
    assert answered(routed) == ["dog"]


@pytest.mark.parametrize("vector", [None, EngineError("lost"), RefusedError("too long"), StackError("gone")])
def test_where_nothing_can_be_embedded_all_layers_answer(
    routed: Any, vector: Any, caplog: pytest.LogCaptureFixture
) -> None:
    routed.engine.vector = vector
    with caplog.at_level(logging.WARNING, "lamina.serve"):
        assert answered(routed) == WHOLE
    assert "all layers of 'main' answer" in caplog.text


def test_a_damaged_router_is_left_out(routed: Any) -> None:
    for file in (routed.folder / ".lamina" / "routers").glob("*.safetensors"):
        file.write_bytes(b"")
    routed.engine.vector = DOG
    assert answered(routed) == WHOLE
    assert {model["routed"] for model in routed.ask("GET", "/v1/models").json()["data"]} == {False}


def test_models_say_which_of_them_is_routed(routed: Any, cli: Callable[..., Any]) -> None:
    assert cli("tag", "v1").code == 0
    listed = routed.ask("GET", "/v1/models").json()["data"]
    assert [model["id"] for model in listed if model["routed"]] == ["main"]
    assert routed.ask("GET", "/v1/models/main@dog").json()["routed"] is False


def test_long_conversations_are_read_from_their_end(routed: Any) -> None:
    routed.engine.vector = DOG
    refused = routed.chat("dog " * 300)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert routed.engine.embedded == []
    routed.engine.context = READ_TOKENS + 1000
    assert answered(routed, content="dog " * (READ_TOKENS + 100)) == ["dog"]
    ((read, _),) = routed.engine.embedded
    assert read == routed.engine.seen[-1].prompt[-READ_TOKENS:]
    assert READ_TOKENS <= EMBEDDED_TOKENS  # else llama.cpp could not route these
