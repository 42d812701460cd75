from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import UsageError
from lamina.share.reference import Reference

_DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("localhost:5000/tools:v1", "localhost:5000", "tools", "v1"),
        ("ghcr.io/team/sub/tools:v1.2", "ghcr.io", "team/sub/tools", "v1.2"),
        ("ghcr.io/team/tools", "ghcr.io", "team/tools", "latest"),
        (f"ghcr.io/team/tools@{_DIGEST}", "ghcr.io", "team/tools", _DIGEST),
        ("[::1]:5000/tools:v1", "[::1]:5000", "tools", "v1"),
    ],
)
def test_parts(text: str, registry: str, repository: str, tag: str) -> None:
    found = Reference.parse(text)
    assert (found.registry, found.repository, found.tag) == (registry, repository, tag)
    assert Reference.parse(str(found)) == found


_WORD = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)


@given(host=_WORD, port=st.integers(1, 65535), path=st.lists(_WORD, min_size=1, max_size=4), tag=_WORD)
def test_what_is_printed_is_read_back(host: str, port: int, path: list[str], tag: str) -> None:
    reference = Reference(f"{host}:{port}", "/".join(path), tag)
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tools:v1", "'tools:v1' names no registry: expected REGISTRY/NAME:TAG"),
        ("team/tools:v1", "'team/tools:v1' names no registry: expected REGISTRY/NAME:TAG"),
        ("https://ghcr.io/tools:v1", "'https://ghcr.io/tools:v1' is an address, not REGISTRY/NAME:TAG"),
        ("ghcr.io/Tools:v1", "'Tools' cannot name a repository"),
        ("ghcr.io/../tools:v1", "'../tools' cannot name a repository"),
        ("ghcr.io/tools:-x", "'-x' cannot be a tag"),
        ("ghcr.io/tools@sha256:12", "'sha256:12' is not sha256: and 64 hex digits"),
        ("ghcr.io/", "cannot be read as REGISTRY/NAME:TAG"),
        ("ghcr.io/a:b:c", "'ghcr.io/a:b:c' cannot be read as REGISTRY/NAME:TAG"),
    ],
)
def test_what_is_no_reference_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Reference.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("registry", "is_loopback"),
    [
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.1.2.3", True),
        ("[::1]:5000", True),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com:5000", False),
        ("10.0.0.1:5000", False),
        ("ghcr.io", False),
    ],
)
def test_only_this_machine_is_loopback(registry: str, is_loopback: bool) -> None:
    assert Reference(registry, "tools", "v1").is_loopback is is_loopback


def test_docker_hub_answers_elsewhere() -> None:
    assert Reference.parse("docker.io/ann/tools:v1").host == "registry-1.docker.io"
    assert Reference.parse("ghcr.io/ann/tools:v1").host == "ghcr.io"
