from __future__ import annotations

import json
from typing import Any

import pytest

from lamina.errors import StackError
from lamina.refs import Digest
from lamina.share.artifact import parse_manifest
from lamina.share.reference import Reference
from lamina.stack.layers import pack_stack
from lamina.stack.manifest import PATH_KEY, TITLE_KEY

_WHERE = Reference("localhost:5000", "tools", "v1")
_DIGEST = str(Digest.of_bytes(b""))


@pytest.fixture
def spelled(home) -> dict[str, Any]:
    """A stack's manifest as JSON."""
    value: dict[str, Any] = json.loads(pack_stack(home.store, home.stack("a", "b")).canonical())
    return value


def _parse(value: object) -> None:
    parse_manifest(value if isinstance(value, bytes) else json.dumps(value).encode(), _WHERE)


def test_a_stack_is_read(spelled) -> None:
    _parse(spelled)
    del spelled["artifactType"]
    with pytest.raises(StackError, match="is wrong at artifactType"):
        _parse(spelled)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"null", b"{}", b'{"config": 3}'])
def test_nonsense_is_refused(content: bytes) -> None:
    with pytest.raises(StackError, match=f"the manifest of {_WHERE} cannot be read"):
        _parse(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"artifactType": "application/vnd.cncf.model.manifest.v1+json"},
            "is not a lamina stack but application/vnd.cn",
        ),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "is not a lamina stack but a list of images"),
        ({"subject": {}}, "is wrong at subject: extra inputs"),
        ({"schemaVersion": 3}, "is wrong at schemaVersion"),
        ({"layers": 3}, "is wrong at layers"),
    ],
)
def test_another_kind_of_manifest_is_refused(spelled, change: dict[str, Any], message: str) -> None:
    with pytest.raises(StackError, match=message) as caught:
        _parse(spelled | change)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": "../../../etc/passwd"}, r"names '\.\./\.\./\.\./etc/passwd', which is not sha256"),
        ({"digest": "sha256:../../x"}, "is not sha256: and 64 hex digits"),
        ({"digest": "sha256:" + "A" * 64}, "is not sha256: and 64 hex digits"),
        ({"digest": "sha512:" + "a" * 128}, "is not sha256: and 64 hex digits"),
        ({"size": -1}, "a size below zero"),
        ({"size": "7"}, r"is wrong at layers\.0\.size"),
        ({"urls": ["https://example.com"]}, r"is wrong at layers\.0\.urls"),
        ({"annotations": {TITLE_KEY: "../../.bashrc"}}, r"puts a file at '\.\./\.\./\.bashrc', outside"),
        ({"annotations": {PATH_KEY: "/etc/passwd"}}, "puts a file at '/etc/passwd', outside"),
    ],
)
@pytest.mark.parametrize("place", ["config", 0])
def test_a_descriptor_that_points_outside_the_store_is_refused(spelled, place, change, message) -> None:
    item = spelled["config"] if place == "config" else spelled["layers"][place]
    item.update(change)
    with pytest.raises(StackError, match=message.replace(r"layers\.0", "config") if place == "config" else message):
        _parse(spelled)


def test_places_are_remembered_by_registry(home) -> None:
    from lamina.share.places import note_places, read_places

    other = Reference("localhost:5000", "other", "v1")
    note_places(home.store, _WHERE, [_DIGEST])
    assert read_places(home.store, _WHERE) == {}
    assert read_places(home.store, other) == {_DIGEST: "tools"}
    assert read_places(home.store, Reference("ghcr.io", "other", "v1")) == {}
    (home.store.root / "cache" / "registries.json").write_text("[")
    assert read_places(home.store, other) == {}
