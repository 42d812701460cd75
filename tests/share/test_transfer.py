"""Blobs both ways through a registry that is real and connections that end when they should not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.errors import MachineError, StackError
from lamina.refs import Digest
from lamina.share.download import download_blob
from lamina.share.registry import Dropped, Patience
from lamina.share.upload import upload_blob
from lamina.stack.manifest import Descriptor

_CHUNK = 1 << 16


class _Bar:
    """A tick that adds up."""

    def __init__(self) -> None:
        self.total = 0.0

    def __call__(self, amount: float, detail: str = "") -> None:
        self.total += amount


def _blob(folder: Path, size: int, seed: object = 0) -> tuple[Descriptor, Path]:
    content = random.Random(repr((size, seed))).randbytes(size)
    path = folder / Digest.of_bytes(content).short
    path.write_bytes(content)
    return Descriptor(mediaType="x", digest=str(Digest.of_bytes(content)), size=size), path


@pytest.mark.parametrize("size", [0, 1, _CHUNK - 1, _CHUNK, _CHUNK + 1, 3 * _CHUNK, 3 * _CHUNK + 7])
def test_a_blob_comes_back_as_it_went(server, open_registry, tmp_path: Path, size: int) -> None:
    registry, (item, path), bar = open_registry(server), _blob(tmp_path, size), _Bar()
    assert not registry.has_blob(item.digest)
    assert upload_blob(registry, item, path, bar, chunk_bytes=_CHUNK)
    assert bar.total == size
    assert registry.has_blob(item.digest)
    download_blob(registry, item, tmp_path / "back", bar)
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert bar.total == 2 * size


def _verbs(proxy) -> str:
    return " ".join(line.split()[0] for line in proxy.requests)


def test_an_upload_goes_on_where_the_registry_says_it_stands(proxy, open_registry, tmp_path: Path) -> None:
    registry, (item, path), bar = open_registry(proxy), _blob(tmp_path, 4 * _CHUNK), _Bar()
    proxy.cut("up", request=b"PATCH ", skip=2)
    assert upload_blob(registry, item, path, bar, chunk_bytes=_CHUNK)
    assert registry.has_blob(item.digest)
    assert _verbs(proxy) == "POST PATCH PATCH PATCH GET PATCH PATCH PUT HEAD"
    assert bar.total == item.size
    assert proxy.up_bytes < item.size + 10_000


def test_an_upload_cut_inside_a_piece_is_whole_in_the_end(proxy, open_registry, tmp_path: Path) -> None:
    registry, (item, path), bar = open_registry(proxy), _blob(tmp_path, 4 * _CHUNK, "inside"), _Bar()
    proxy.cut("up", 2 * _CHUNK + _CHUNK // 2)
    assert upload_blob(registry, item, path, bar, chunk_bytes=_CHUNK)
    assert registry.has_blob(item.digest)
    assert bar.total == item.size


def test_the_answer_to_the_last_request_may_be_lost(proxy, open_registry, tmp_path: Path) -> None:
    registry, (item, path), bar = open_registry(proxy), _blob(tmp_path, 1000, "lost"), _Bar()
    proxy.cut("down", request=b"HTTP/1.1 201")
    assert upload_blob(registry, item, path, bar)
    assert _verbs(proxy) == "POST PUT GET HEAD"
    assert bar.total == item.size


_cuts = st.lists(st.tuples(st.sampled_from(["up", "down"]), st.integers(0, 5 * _CHUNK)), min_size=1, max_size=3)
_laws = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_laws
@given(cuts=_cuts, seed=st.integers(0, 2**60))
def test_wherever_the_connection_is_cut_an_upload_arrives_whole(proxy, open_registry, tmp_path, cuts, seed) -> None:
    registry, (item, path), bar = open_registry(proxy), _blob(tmp_path, 3 * _CHUNK + 5, seed), _Bar()
    registry.pauses_s = (0.0,) * (len(cuts) + 1)
    registry.has_blob(item.digest)  # as push does; from now on it is known that the registry dates its answers
    for cut in cuts:
        proxy.cut(*cut)
    assert upload_blob(registry, item, path, bar, chunk_bytes=_CHUNK)
    proxy.heal()
    assert registry.has_blob(item.digest)
    assert bar.total == item.size


@_laws
@given(cuts=_cuts, seed=st.integers(0, 2**60))
def test_wherever_the_connection_is_cut_a_download_arrives_whole(
    server, proxy, open_registry, tmp_path, cuts, seed
) -> None:
    registry, (item, path), bar = open_registry(proxy), _blob(tmp_path, 3 * _CHUNK + 5, seed), _Bar()
    upload_blob(open_registry(server), item, path, _Bar())
    registry.pauses_s = (0.0,) * (len(cuts) + 1)
    for cut in cuts:
        proxy.cut(*cut)
    back = tmp_path / f"back{seed}"
    download_blob(registry, item, back, bar)
    proxy.heal()
    assert back.read_bytes() == path.read_bytes()
    assert bar.total == item.size


def test_a_download_goes_on_in_another_process(server, proxy, open_registry, tmp_path: Path) -> None:
    (item, path), partial, bar = _blob(tmp_path, 40 * _CHUNK), tmp_path / "partial", _Bar()
    upload_blob(open_registry(server), item, path, _Bar())
    for after_bytes in (20 * _CHUNK, 0, 0, 0):
        proxy.cut("down", after_bytes)
    with pytest.raises(Dropped, match="the connection was cut"):
        download_blob(open_registry(proxy), item, partial, bar)
    proxy.heal()
    have, before = partial.stat().st_size, proxy.down_bytes
    assert 10 * _CHUNK < have == bar.total < item.size
    again = _Bar()
    download_blob(open_registry(proxy), item, partial, again)
    assert partial.read_bytes() == path.read_bytes()
    assert again.total == item.size
    assert proxy.down_bytes - before < item.size - have + 1000


def test_what_lies_there_from_something_else_is_replaced(server, open_registry, tmp_path: Path) -> None:
    registry, (item, path), partial = open_registry(server), _blob(tmp_path, 1000, "stale"), tmp_path / "partial"
    upload_blob(registry, item, path, _Bar())
    partial.write_bytes(bytes(2000))
    download_blob(registry, item, partial, _Bar())
    assert partial.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("have", [0, 100])
def test_a_blob_that_the_registry_has_cut_short_is_refused(server, open_registry, tmp_path: Path, have: int) -> None:
    registry, (item, path), partial = open_registry(server), _blob(tmp_path, 1000, have), tmp_path / "partial"
    upload_blob(registry, item, path, _Bar())
    server.blob_file(item.digest).write_bytes(path.read_bytes()[:700])
    partial.write_bytes(path.read_bytes()[:have])
    with pytest.raises(StackError, match=r"has 700 bytes in 127.* its manifest says 1,000") as caught:
        download_blob(registry, item, partial, _Bar())
    assert "push the stack again" in caught.value.hint
    assert not partial.exists()


def test_more_here_than_the_registry_has_is_refused(server, open_registry, tmp_path: Path) -> None:
    registry, (item, path), partial = open_registry(server), _blob(tmp_path, 1000, "short"), tmp_path / "partial"
    upload_blob(registry, item, path, _Bar())
    server.blob_file(item.digest).write_bytes(path.read_bytes()[:700])
    partial.write_bytes(path.read_bytes()[:800])
    with pytest.raises(StackError, match="has 700 bytes in"):
        download_blob(registry, item, partial, _Bar())


def test_a_blob_that_is_not_there(server, open_registry, tmp_path: Path) -> None:
    item, _ = _blob(tmp_path, 1000, "absent")
    with pytest.raises(StackError, match=rf"has no blob {item.digest[:19]} \(404\)"):
        download_blob(open_registry(server), item, tmp_path / "partial", _Bar())


def test_a_full_disk_is_named_and_what_arrived_is_kept(server, open_registry, tmp_path: Path) -> None:
    registry, (item, path), partial = open_registry(server), _blob(tmp_path, 1000, "full"), tmp_path / "partial"
    upload_blob(registry, item, path, _Bar())
    partial.symlink_to("/dev/full")
    with pytest.raises(MachineError, match="partial: cannot be written: No space left on device") as caught:
        download_blob(registry, item, partial, _Bar())
    assert "what has arrived is kept" in caught.value.hint


def test_a_damaged_blob_is_not_sent_twice(server, open_registry, tmp_path: Path) -> None:
    blobs = tmp_path / ".lamina" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    item, path = _blob(blobs, 1000, "damaged")
    path.write_bytes(bytes(1000))
    with pytest.raises(StackError, match=rf"blob {item.digest[:19]} in {tmp_path}/.lamina is damaged"):
        upload_blob(open_registry(server), item, path, _Bar())
    assert not open_registry(server).has_blob(item.digest)


def test_a_blob_of_another_repository_is_not_sent(server, proxy, open_registry, tmp_path: Path) -> None:
    (item, path), bar = _blob(tmp_path, 1000, "shared"), _Bar()
    upload_blob(open_registry(server, "t/one"), item, path, _Bar())
    other = open_registry(proxy, "t/two")
    assert not upload_blob(other, item, path, bar, source="t/one")
    assert other.has_blob(item.digest)
    assert (_verbs(proxy), bar.total) == ("POST HEAD", 1000)


def test_a_source_that_lacks_the_blob_costs_nothing(server, open_registry, tmp_path: Path) -> None:
    registry, (item, path) = open_registry(server), _blob(tmp_path, 1000, "nosource")
    assert upload_blob(registry, item, path, _Bar(), source="t/nowhere")
    assert registry.has_blob(item.digest)


def test_patience_ends_only_without_progress() -> None:
    patience, drop = Patience((0.0, 0.0)), Dropped("x")
    for at in range(1, 20):
        patience.wait(drop, at)
    patience.wait(drop, 19)
    with pytest.raises(Dropped):
        patience.wait(drop, 19)
