"""What ``lamina pull`` and ``lamina push`` refuse, and that the store is whole afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.errors import LaminaError, MachineError, StackError
from lamina.ops import pull as pull_module
from lamina.share.upload import upload_blob
from lamina.stack.fsck import check_store
from lamina.stack.layers import pack_stack, read_layer, read_stack, write_stack
from lamina.stack.lineage import get_ref
from lamina.stack.manifest import STACK_TYPE, Manifest


def test_a_stack_on_another_base_is_refused_before_its_weights_travel(home, make_home, proxy, repository: str) -> None:
    home.stack("a", size=100_000)
    target = f"{proxy.name}/{repository}:v1"
    home.push(target)
    other = make_home("other", base="other")
    before, files = proxy.down_bytes, other.files()
    with pytest.raises(StackError, match=r"the stack is on base tiny \(.*\), this project's is ") as caught:
        other.pull(target)
    assert "lamina init --base ./tiny" in caught.value.hint
    assert proxy.down_bytes - before < 10_000
    other.check_untouched(files)
    (other.folder / "lamina.toml").write_text('[base]\nmodel = "./other"\n')
    assert other.pull(target).moved


def test_a_weights_blob_with_other_content_is_refused_once_and_gone(home, away, server, target: str) -> None:
    stack = home.stack("a")
    home.push(target)
    weights, files = read_layer(home.store, stack.layers[0].layer).weights, away.files()
    server.blob_file(weights).write_bytes(bytes(1000))
    with pytest.raises(StackError, match=f"what arrived as blob {weights[:19]} has another digest") as caught:
        away.pull(target)
    assert caught.value.hint
    assert not away.store.has(weights)
    assert not away.store.partial_path(weights).exists()
    away.check_untouched(files)
    server.blob_file(weights).write_bytes(home.store.read_bytes(weights))
    assert away.pull(target).moved


def test_a_truncated_or_missing_blob_is_refused(home, away, server, target: str) -> None:
    stack = home.stack("a")
    home.push(target)
    weights, files = read_layer(home.store, stack.layers[0].layer).weights, away.files()
    server.blob_file(weights).write_bytes(home.store.read_bytes(weights)[:300])
    with pytest.raises(StackError, match=r"has 300 bytes in .* its manifest says 1,000"):
        away.pull(target)
    away.check_untouched(files)
    server.blob_file(weights).unlink()
    with pytest.raises(StackError, match=rf"has no blob {weights[:19]} \(404\)"):
        away.pull(target)
    away.check_untouched(files)


def test_a_damaged_blob_here_is_fetched_anew(home, away, target: str) -> None:
    stack = home.stack("a")
    home.push(target)
    away.pull(target)
    weights = read_layer(home.store, stack.layers[0].layer).weights
    away.store.blob_path(weights).write_bytes(bytes(1000))
    assert away.pull(target).received == 1
    assert check_store(away.store) == []


def _publish(home, server, repository: str, open_registry, manifest: Manifest) -> str:
    """Put a manifest made by hand into the registry, with the blobs that it names and the home store has."""
    registry = open_registry(server)
    for item in (*manifest.layers, manifest.config):
        if home.store.has(item.digest) and not registry.has_blob(item.digest):
            upload_blob(registry, item, home.store.blob_path(item.digest), lambda amount, detail="": None)
    registry.write_manifest(manifest.canonical(), manifest.mediaType)
    return f"{server.name}/{repository}:v1"


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("layer.json", "lacks blob .*, the configuration of layer 'a'"),
        ("weights.safetensors", "lacks blob .*, the weights of layer 'a'"),
        ("rows.txt", "lacks blob .*, the rows that layer 'a' has seen"),
    ],
)
def test_a_manifest_that_is_not_whole_is_refused(
    home, away, server, repository: str, open_registry, left_out: str, message: str
) -> None:
    whole, files = pack_stack(home.store, home.stack("a")), away.files()
    kept = [item for item in whole.layers if not any(left_out in text for text in item.annotations.values())]
    target = _publish(home, server, repository, open_registry, whole.model_copy(update={"layers": tuple(kept)}))
    with pytest.raises(StackError, match=message) as caught:
        away.pull(target)
    assert "push the stack again" in caught.value.hint
    away.check_untouched(files)


def _with_config(home, content: bytes) -> Manifest:
    """Return a stack's manifest around a config that no lamina wrote."""
    whole = pack_stack(home.store, home.stack("a"))
    return whole.model_copy(update={"config": home.store.put_bytes(content, STACK_TYPE)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: b"\x00 nonsense", "stack .* cannot be read"),
        (lambda text: text.replace(b'"format":1', b'"format":2'), "stack .* cannot be read"),
        (lambda text: text.replace(b'"scale":1.0', b'"scale":1e999'), "stack .* cannot be read"),
        (lambda text: text + b"\n", "is not spelled as this version of lamina spells it"),
        (lambda text: text.replace(b'"name":"a"', b'"name":"../a"'), "cannot be used: '../a' cannot name a layer"),
        (lambda text: text + b" " * (5 << 20), "bytes, more than any configuration"),
    ],
)
def test_a_strange_configuration_is_refused(
    home, away, server, repository: str, open_registry, change, message: str
) -> None:
    files = away.files()
    text = home.stack("a").canonical()
    target = _publish(home, server, repository, open_registry, _with_config(home, change(text)))
    with pytest.raises(StackError, match=message) as caught:
        away.pull(target)
    assert caught.value.hint
    away.check_untouched(files)


def test_a_layer_on_a_wrong_parent_is_refused(home, away, server, repository: str, open_registry) -> None:
    stack, files = home.stack("a", "b"), away.files()
    alone = stack.model_copy(update={"layers": stack.layers[1:]})
    write_stack(home.store, alone)
    target = _publish(home, server, repository, open_registry, pack_stack(home.store, alone))
    with pytest.raises(StackError, match="layer 'b' was trained on stack"):
        away.pull(target)
    away.check_untouched(files)


def test_a_pull_that_was_cut_goes_on_where_it_stopped(home, away, proxy, repository: str) -> None:
    stack = home.stack("a", size=3_000_000)
    target = f"{proxy.name}/{repository}:v1"
    home.push(target)
    weights, files = read_layer(home.store, stack.layers[0].layer).weights, away.files()
    for after_bytes in (1_500_000, 0, 0, 0, 0):
        proxy.cut("down", after_bytes)
    with pytest.raises(MachineError, match=r"registry 127.*: the connection was cut") as caught:
        away.pull(target)
    assert "what has arrived is kept" in caught.value.hint
    away.check_untouched(files)
    proxy.heal()
    have, before = away.store.partial_path(weights).stat().st_size, proxy.down_bytes
    assert have > 1_000_000
    assert away.pull(target).moved
    assert proxy.down_bytes - before < 3_000_000 - have + 20_000


def test_a_push_that_was_cut_shows_nothing_and_goes_on(home, away, proxy, repository: str) -> None:
    home.stack("a", "b", size=300_000)
    target = f"{proxy.name}/{repository}:v1"
    for after_bytes in (450_000, 0, 0, 0, 0):
        proxy.cut("up", after_bytes)
    with pytest.raises(MachineError, match=r"the connection was cut"):
        home.push(target)
    proxy.heal()
    with pytest.raises(StackError, match=r"\(404\)"):
        away.pull(target)
    again = home.push(target)
    assert again.present >= 1
    assert again.sent_bytes < 600_000
    assert away.pull(target).moved


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(after_bytes=st.lists(st.integers(0, 40_000), min_size=1, max_size=3), seed=st.integers(0, 2**40))
def test_wherever_pulls_are_cut_the_store_is_whole(home, make_home, proxy, repository, after_bytes, seed) -> None:
    home.stack("a", "b", size=10_000)
    target = f"{proxy.name}/{repository}:v1"
    home.push(target)
    away = make_home(f"away{seed}-{len(list(home.folder.parent.iterdir()))}")
    files = away.files()
    for count in after_bytes:
        proxy.cut("down", count)
    for _ in range(len(after_bytes) + 1):
        try:
            away.pull(target)
            break
        except LaminaError:
            away.check_untouched(files)
    proxy.heal()
    assert get_ref(away.store, "v1") == get_ref(home.store, "main")
    assert check_store(away.store) == []


def test_a_full_disk_is_seen_before_anything_is_fetched(home, away, target: str, monkeypatch) -> None:
    home.stack("a", size=100_000)
    home.push(target)
    files = away.files()
    usage = pull_module.Artifact.check_space.__globals__["shutil"]
    monkeypatch.setattr(usage, "disk_usage", lambda path: type("Usage", (), {"free": 50_000}))
    with pytest.raises(MachineError, match=r"\.lamina: 100,\d+ bytes are to come, 50,000 are free") as caught:
        away.pull(target)
    assert "lamina gc" in caught.value.hint
    away.check_untouched(files)


def test_a_disk_that_fills_up_on_the_way_is_named(home, away, target: str) -> None:
    stack = home.stack("a")
    home.push(target)
    files, weights = away.files(), read_layer(home.store, stack.layers[0].layer).weights
    away.store.partial_path(weights).symlink_to("/dev/full")
    with pytest.raises(MachineError, match="No space left on device"):
        away.pull(target)
    away.check_untouched(files)


def test_two_pulls_do_not_meet(home, away, target: str, monkeypatch) -> None:
    home.stack("a")
    home.push(target)
    monkeypatch.setattr("lamina.stack.store._LOCK_WAIT_S", 0.05)
    with away.store.lock("pull.lock"), pytest.raises(StackError, match="another lamina has held the lock"):
        away.pull(target)
    assert away.pull(target).moved


def test_a_ref_that_moves_meanwhile_is_not_overwritten(home, away, target: str, monkeypatch) -> None:
    home.stack("a")
    home.push(target)
    fetch = pull_module._fetch_blobs

    def meanwhile(*given: Any) -> None:
        away.stack("z", ref="v1")
        fetch(*given)

    monkeypatch.setattr(pull_module, "_fetch_blobs", meanwhile)
    with pytest.raises(StackError, match="ref 'v1' moved meanwhile"):
        away.pull(target)
    assert [entry.name for entry in read_stack(away.store, get_ref(away.store, "v1")).layers] == ["z"]
