"""Every stack is a model name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.serve.stacks import Stacks, UnknownStackError
from lamina.stack.lineage import get_ref
from lamina.stack.store import Store


def models(site: Any) -> dict[str, list[str]]:
    listed = site.ask("GET", "/v1/models").json()["data"]
    return {model["id"]: [layer["name"] for layer in model["layers"]] for model in listed}


def test_refs_and_prefixes_are_listed_and_new_ones_appear(site: Any, grow: Callable[..., Any], cli: Any) -> None:
    assert models(site) == {"base": [], "main": []}
    grow("dialogue")
    grow("tools")
    assert cli("tag", "v2").code == 0
    grow("facts")
    assert models(site) == {
        "base": [],
        "main": ["dialogue", "tools", "facts"],
        "v2": ["dialogue", "tools"],
        "main@dialogue": ["dialogue"],
    }
    assert site.ask("GET", "/v1/models/base+dialogue+tools:0.5").json()["layers"][1]["scale"] == 0.5


def test_each_name_means_its_layers(site: Any, grow: Callable[..., Any], cli: Any) -> None:
    stacks = [grow(name) for name in ("dialogue", "tools")]
    assert cli("tag", "v2").code == 0
    stacks.append(grow("facts"))
    digests = [entry.layer for entry in stacks[-1].layers]
    expected = {
        "base": [],
        "main": digests,
        "main~1": digests[:2],
        "v2": digests[:2],
        "main@v2": digests[:2],
        "main@dialogue": digests[:1],
        "main@tools": digests[:2],
        "base+dialogue+tools": digests[:2],
        get_ref(Store.find(site.folder), "main"): digests,
    }
    for name, layers in expected.items():
        assert site.chat(model=name).status_code == 200, name
        assert [digest for digest, _ in site.engine.seen[-1].layers] == layers, name
    site.chat(model="base+dialogue+tools:-0.5")
    assert [scale for _, scale in site.engine.seen[-1].layers] == [1.0, -0.5]


def test_a_name_that_moved_means_the_new_stack_at_once(site: Any, grow: Callable[..., Any], cli: Any) -> None:
    grow("one")
    site.chat()
    grow("two")
    site.chat()
    assert cli("drop", "two").code == 0
    site.chat()
    assert [len(request.layers) for request in site.engine.seen] == [1, 2, 1]


def test_a_tag_that_the_branch_never_held(site: Any, grow: Callable[..., Any], cli: Any) -> None:
    grow("one")
    assert cli("branch", "other").code == 0
    assert cli("switch", "other").code == 0
    grow("two")
    assert cli("tag", "v2").code == 0
    assert "never held the stack that is tagged 'v2'" in site.chat(model="main@v2").json()["error"]["message"]
    assert site.chat(model="other@v2").status_code == 200


def test_the_store_is_read_again_only_when_it_changed(
    project: Path, grow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    grow("one")
    store = Store.find(project)
    stacks = Stacks(store, grow("two").base)
    first = stacks.resolve("main"), stacks.all()
    monkeypatch.setattr(Store, "read_bytes", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(Store, "read_index", lambda *_: pytest.fail("read"))
    assert (stacks.resolve("main"), stacks.all()) == first


def test_errors_do_not_tell_where_the_project_lies(project: Path, grow: Callable[..., Any]) -> None:
    stacks = Stacks(Store.find(project), grow("one").base)
    (project / ".lamina" / "index.json").write_text("broken")
    with pytest.raises(UnknownStackError) as caught:
        stacks.resolve("main")
    assert str(project) not in stacks.public(caught.value)
