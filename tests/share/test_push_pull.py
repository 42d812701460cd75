"""``lamina push`` and ``lamina pull`` from one project into another, through a real registry."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oras.client import OrasClient

from lamina.errors import LaminaError, MachineError, StackError, UsageError
from lamina.ops import pull as pull_module
from lamina.ops import push as push_module
from lamina.ops.pull import pull
from lamina.ops.push import push
from lamina.records import Quiet
from lamina.refs import Digest
from lamina.stack.fsck import check_store
from lamina.stack.layers import pack_stack, read_layer, read_stack, stack_digest, write_stack
from lamina.stack.lineage import get_ref, history, set_ref
from lamina.stack.manifest import STACK_TYPE, Manifest
from lamina.stack.order import add_layer, drop_layer, rescale_layer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: the tests' connections do not get better by waiting."""
    for module in (push_module, pull_module):
        registry = module.Registry
        monkeypatch.setattr(
            module, "Registry", lambda *given, made=registry, **named: made(*given, pauses_s=(0.0,) * 3, **named)
        )


@pytest.fixture
def target(server, repository: str) -> str:
    return f"{server.name}/{repository}:v1"


def _push(home, target: str, stack: str | None = None, **flags: Any):
    return push(home.folder, stack, target, progress=Quiet(), **flags)


def _pull(home, target: str, **flags: Any):
    return pull(home.folder, target, progress=Quiet(), **flags)


def test_a_stack_arrives_as_it_left(home, away, target: str) -> None:
    stack = home.stack("a", "b", size=5000)
    pushed = _push(home, target)
    pulled = _pull(away, target)
    assert pulled.digest == pushed.digest
    assert (pulled.ref, pulled.moved) == ("v1", True)
    held = get_ref(away.store, "v1")
    assert held == stack_digest(stack)
    assert read_stack(away.store, held) == stack
    for entry in stack.layers:
        layer = read_layer(away.store, entry.layer)
        assert layer == read_layer(home.store, entry.layer)
        assert away.store.read_bytes(layer.weights) == home.store.read_bytes(layer.weights)
    assert check_store(away.store) == []
    assert history(away.store, "v1")[0].why == f"pull {target}"
    assert list((away.store.root / "partial").iterdir()) == []


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scales=st.lists(st.floats(-4, 4), min_size=1, max_size=4), dropped=st.booleans())
def test_every_stack_arrives_with_its_digest(home, away, server, repository, scales, dropped) -> None:
    stack = home.bare
    for place, scale in enumerate(scales):
        stack = add_layer(home.store, stack, home.bake(f"l{place}", stack), scale)
    if dropped:
        stack = drop_layer(home.store, stack, "l0")
    write_stack(home.store, stack)
    digest = stack_digest(stack)
    target = f"{server.name}/{repository}:t{digest[7:19]}"
    _push(home, target, digest)
    assert stack_digest(_pull(away, target).stack) == get_ref(away.store, f"t{digest[7:19]}") == digest


def test_pushed_again_no_blob_is_sent(home, proxy, repository: str) -> None:
    home.stack("a", "b")
    target = f"{proxy.name}/{repository}:v1"
    first = _push(home, target)
    assert first.sent == 9  # config, two parents, and for each layer config, weights and rows
    proxy.requests.clear()
    again = _push(home, target)
    assert (again.sent, again.sent_bytes, again.present) == (0, 0, 9)
    assert {line.split()[0] for line in proxy.requests} == {"HEAD", "PUT"}
    assert [line.split()[1] for line in proxy.requests if line.startswith("PUT")] == [f"/v2/{repository}/manifests/v1"]
    assert again.digest == first.digest


@pytest.mark.parametrize("other", ["", "x"])
def test_layers_that_stacks_share_are_sent_once(home, proxy, repository: str, other: str) -> None:
    home.stack("a")
    _push(home, f"{proxy.name}/{repository}:one")
    home.stack("a", "b", ref="two")
    sent = _push(home, f"{proxy.name}/{repository}{other}:two", "two")
    assert sent.sent == 4  # the stack's config; config, weights and rows of b. Its parent is the first stack
    assert sent.present == 5
    assert 1000 < sent.sent_bytes < 5000


def test_pulled_again_nothing_is_received(home, away, proxy, repository: str) -> None:
    home.stack("a", "b", size=50_000)
    target = f"{proxy.name}/{repository}:v1"
    _push(home, target)
    _pull(away, target)
    before, files = proxy.down_bytes, away.files()
    again = _pull(away, target)
    assert (again.received, again.received_bytes, again.moved) == (0, 0, False)
    assert proxy.down_bytes - before < 5000
    assert away.files() == files


def test_only_layers_that_are_not_here_are_received(home, away, proxy, repository: str) -> None:
    home.stack("a", size=50_000)
    _push(home, f"{proxy.name}/{repository}:v1")
    _pull(away, f"{proxy.name}/{repository}:v1")
    home.stack("a", "b", size=50_000)
    _push(home, f"{proxy.name}/{repository}:v2")
    before = proxy.down_bytes
    assert 50_000 < _pull(away, f"{proxy.name}/{repository}:v2").received_bytes < 60_000
    assert proxy.down_bytes - before < 65_000


def test_private_rows_stay_at_home_unless_sent(home, away, make_home, target: str) -> None:
    stack = home.stack("a", rows="secret")
    layer = read_layer(home.store, stack.layers[0].layer)
    assert layer.replay is not None
    assert layer.heldout is not None
    pushed = _push(home, target)
    assert pushed.left_out == 2
    _pull(away, target)
    assert not away.store.has(layer.replay)
    assert not away.store.has(layer.heldout)
    assert _push(away, target, "v1").digest == pushed.digest
    assert _push(home, target, with_data=True).left_out == 0
    third = make_home("third")
    _pull(third, target)
    assert third.store.read_bytes(layer.replay) == b"secret replayed"
    assert third.store.read_bytes(layer.heldout) == b"secret held out"


def test_what_was_moved_on_purpose_arrives_with_its_parents(home, away, target: str) -> None:
    stack = drop_layer(home.store, home.stack("a", "b"), "a")
    set_ref(home.store, "moved", write_stack(home.store, stack), why="drop a")
    _push(home, target, "moved")
    _pull(away, target)
    parent = read_layer(away.store, stack.layers[0].layer).parent
    assert [entry.name for entry in read_stack(away.store, parent).layers] == ["a"]


def test_a_sum_typed_by_hand_is_pushed_if_its_layers_lie_on_their_parents(home, away, target: str) -> None:
    home.stack("a", "b")
    _push(home, target, "base+a")
    assert [entry.name for entry in _pull(away, target).stack.layers] == ["a"]
    with pytest.raises(StackError, match="layer 'b' was trained on stack") as caught:
        _push(home, target, "base+b")
    assert "lamina drop" in caught.value.hint


def test_other_tools_see_files_with_names(home, target: str, tmp_path: Path) -> None:
    stack = home.stack("a", "b")
    _push(home, target)
    found = OrasClient(insecure=True).pull(target, outdir=str(tmp_path / "out"))
    names = {str(Path(path).relative_to(tmp_path / "out")) for path in found}
    assert {"0-a/layer.json", "0-a/weights.safetensors", "1-b/weights.safetensors", "1-b/rows.txt"} <= names
    layer = read_layer(home.store, stack.layers[0].layer)
    assert (tmp_path / "out/0-a/weights.safetensors").read_bytes() == home.store.read_bytes(layer.weights)
    assert json.loads((tmp_path / "out/0-a/layer.json").read_bytes())["name"] == "a"


def test_a_ref_goes_forwards_only(home, away, target: str) -> None:
    home.stack("a")
    _push(home, target)
    _pull(away, target, ref="main")  # from the bare base
    home.stack("a", "b")
    _push(home, target)
    assert _pull(away, target, ref="main").moved
    set_ref(home.store, "main", write_stack(home.store, home.stack("a", "c")), why="other")
    _push(home, target)
    before = away.files()
    with pytest.raises(StackError, match=r"'main' is base\+a\+b here .* base\+a\+c .* does not continue it") as caught:
        _pull(away, target, ref="main")
    assert "--as OTHER" in caught.value.hint
    assert "--force" in caught.value.hint
    assert {name: away.files()[name] for name in before} == before
    assert _pull(away, target, ref="main", force=True).moved
    assert [move.why for move in history(away.store, "main")].count(f"pull {target}") == 3


def test_another_scale_is_not_forwards(home, away, target: str) -> None:
    stack = home.stack("a")
    _push(home, target)
    _pull(away, target)
    set_ref(home.store, "main", write_stack(home.store, rescale_layer(home.store, stack, "a", 0.5)), why="scale")
    _push(home, target)
    with pytest.raises(StackError, match=r"'v1' is base\+a here .* base\+a:0\.5"):
        _pull(away, target)


def test_a_tag_does_not_move(home, away, target: str) -> None:
    set_ref(away.store, "v1", write_stack(away.store, away.bare), why="tag", tag=True)
    home.stack("a")
    _push(home, target)
    with pytest.raises(StackError, match="'v1' is a tag, and tags do not move"):
        _pull(away, target)


def test_a_tag_that_cannot_name_a_ref_needs_a_name(home, away, server, repository: str) -> None:
    home.stack("a")
    pushed = _push(home, f"{server.name}/{repository}:1.0")
    for target in (f"{server.name}/{repository}:1.0", f"{server.name}/{repository}@{pushed.digest}"):
        with pytest.raises(UsageError, match="cannot name a ref") as caught:
            _pull(away, target)
        assert caught.value.hint == f"name the ref: lamina pull {target} --as NAME"
        assert _pull(away, target, ref="tools").ref == "tools"


def test_a_digest_cannot_be_pushed(home, server) -> None:
    with pytest.raises(UsageError, match="names a digest, which no push can choose"):
        _push(home, f"{server.name}/tools@sha256:{'0' * 64}")


def test_a_stack_on_another_base_is_refused_before_its_weights_travel(home, make_home, proxy, repository: str) -> None:
    home.stack("a", size=100_000)
    target = f"{proxy.name}/{repository}:v1"
    _push(home, target)
    other = make_home("other", base="other")
    before, files = proxy.down_bytes, other.files()
    with pytest.raises(StackError, match=r"the stack is on base tiny \(.*\), this project's is ") as caught:
        _pull(other, target)
    assert "lamina init --base ./tiny" in caught.value.hint
    assert proxy.down_bytes - before < 10_000
    _is_untouched(other, files)
    (other.folder / "lamina.toml").write_text('[base]\nmodel = "./other"\n')
    assert _pull(other, target).moved


def _is_untouched(home, files: dict[str, bytes]) -> None:
    """Check that index, refs and all blobs are as they were; more blobs may have come, each whole."""
    now = home.files()
    assert {name: now[name] for name in files} == files
    assert [name for name in now if name not in files and "/blobs/" not in name] == []
    assert check_store(home.store) == []


def test_a_weights_blob_with_other_content_is_refused_once_and_gone(home, away, server, target: str) -> None:
    stack = home.stack("a")
    _push(home, target)
    weights, files = read_layer(home.store, stack.layers[0].layer).weights, away.files()
    server.blob_file(weights).write_bytes(bytes(1000))
    with pytest.raises(StackError, match=f"what arrived as blob {weights[:19]} has another digest") as caught:
        _pull(away, target)
    assert caught.value.hint
    assert not away.store.has(weights)
    assert not away.store.partial_path(weights).exists()
    _is_untouched(away, files)
    server.blob_file(weights).write_bytes(home.store.read_bytes(weights))
    assert _pull(away, target).moved


def test_a_truncated_or_missing_blob_is_refused(home, away, server, target: str) -> None:
    stack = home.stack("a")
    _push(home, target)
    weights, files = read_layer(home.store, stack.layers[0].layer).weights, away.files()
    server.blob_file(weights).write_bytes(home.store.read_bytes(weights)[:300])
    with pytest.raises(StackError, match=r"has 300 bytes in .* its manifest says 1,000"):
        _pull(away, target)
    _is_untouched(away, files)
    server.blob_file(weights).unlink()
    with pytest.raises(StackError, match=rf"has no blob {weights[:19]} \(404\)"):
        _pull(away, target)
    _is_untouched(away, files)


def test_a_damaged_blob_here_is_fetched_anew(home, away, target: str) -> None:
    stack = home.stack("a")
    _push(home, target)
    _pull(away, target)
    weights = read_layer(home.store, stack.layers[0].layer).weights
    away.store.blob_path(weights).write_bytes(bytes(1000))
    assert _pull(away, target).received == 1
    assert check_store(away.store) == []


def _publish(home, server, repository: str, open_registry, manifest: Manifest) -> str:
    """Put a manifest made by hand into the registry, with the blobs that it names and the home store has."""
    registry = open_registry(server)
    for item in (*manifest.layers, manifest.config):
        if home.store.has(item.digest) and not registry.has_blob(item.digest):
            push_module.upload_blob(registry, item, home.store.blob_path(item.digest), lambda amount, detail="": None)
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
        _pull(away, target)
    assert "push the stack again" in caught.value.hint
    _is_untouched(away, files)


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
        _pull(away, target)
    assert caught.value.hint
    _is_untouched(away, files)


def test_a_layer_on_a_wrong_parent_is_refused(home, away, server, repository: str, open_registry) -> None:
    stack, files = home.stack("a", "b"), away.files()
    alone = stack.model_copy(update={"layers": stack.layers[1:]})
    write_stack(home.store, alone)
    target = _publish(home, server, repository, open_registry, pack_stack(home.store, alone))
    with pytest.raises(StackError, match="layer 'b' was trained on stack"):
        _pull(away, target)
    _is_untouched(away, files)


def test_a_pull_that_was_cut_goes_on_where_it_stopped(home, away, proxy, repository: str) -> None:
    stack = home.stack("a", size=3_000_000)
    target = f"{proxy.name}/{repository}:v1"
    _push(home, target)
    weights, files = read_layer(home.store, stack.layers[0].layer).weights, away.files()
    for after_bytes in (1_500_000, 0, 0, 0, 0):
        proxy.cut("down", after_bytes)
    with pytest.raises(MachineError, match=r"registry 127.*: the connection was cut") as caught:
        _pull(away, target)
    assert "what has arrived is kept" in caught.value.hint
    _is_untouched(away, files)
    proxy.heal()
    have, before = away.store.partial_path(weights).stat().st_size, proxy.down_bytes
    assert have > 1_000_000
    assert _pull(away, target).moved
    assert proxy.down_bytes - before < 3_000_000 - have + 20_000


def test_a_push_that_was_cut_shows_nothing_and_goes_on(home, away, proxy, repository: str) -> None:
    home.stack("a", "b", size=300_000)
    target = f"{proxy.name}/{repository}:v1"
    for after_bytes in (450_000, 0, 0, 0, 0):
        proxy.cut("up", after_bytes)
    with pytest.raises(MachineError, match=r"the connection was cut"):
        _push(home, target)
    proxy.heal()
    with pytest.raises(StackError, match=r"\(404\)"):
        _pull(away, target)
    again = _push(home, target)
    assert again.present >= 1
    assert again.sent_bytes < 600_000
    assert _pull(away, target).moved


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(after_bytes=st.lists(st.integers(0, 40_000), min_size=1, max_size=3), seed=st.integers(0, 2**40))
def test_wherever_pulls_are_cut_the_store_is_whole(home, make_home, proxy, repository, after_bytes, seed) -> None:
    home.stack("a", "b", size=10_000)
    target = f"{proxy.name}/{repository}:v1"
    _push(home, target)
    away = make_home(f"away{seed}-{len(list(home.folder.parent.iterdir()))}")
    files = away.files()
    for count in after_bytes:
        proxy.cut("down", count)
    for _ in range(len(after_bytes) + 1):
        try:
            _pull(away, target)
            break
        except LaminaError:
            _is_untouched(away, files)
    proxy.heal()
    assert get_ref(away.store, "v1") == get_ref(home.store, "main")
    assert check_store(away.store) == []


def test_a_full_disk_is_seen_before_anything_is_fetched(home, away, target: str, monkeypatch) -> None:
    home.stack("a", size=100_000)
    _push(home, target)
    files = away.files()
    usage = pull_module.Artifact.check_space.__globals__["shutil"]
    monkeypatch.setattr(usage, "disk_usage", lambda path: type("Usage", (), {"free": 50_000}))
    with pytest.raises(MachineError, match=r"\.lamina: 100,\d+ bytes are to come, 50,000 are free") as caught:
        _pull(away, target)
    assert "lamina gc" in caught.value.hint
    _is_untouched(away, files)


def test_a_disk_that_fills_up_on_the_way_is_named(home, away, target: str) -> None:
    stack = home.stack("a")
    _push(home, target)
    files, weights = away.files(), read_layer(home.store, stack.layers[0].layer).weights
    away.store.partial_path(weights).symlink_to("/dev/full")
    with pytest.raises(MachineError, match="No space left on device"):
        _pull(away, target)
    _is_untouched(away, files)


def test_two_pulls_do_not_meet(home, away, target: str, monkeypatch) -> None:
    home.stack("a")
    _push(home, target)
    monkeypatch.setattr("lamina.stack.store._LOCK_WAIT_S", 0.05)
    with away.store.lock("pull.lock"), pytest.raises(StackError, match="another lamina has held the lock"):
        _pull(away, target)
    assert _pull(away, target).moved


def test_a_ref_that_moves_meanwhile_is_not_overwritten(home, away, target: str, monkeypatch) -> None:
    home.stack("a")
    _push(home, target)
    fetch = pull_module._fetch_blobs

    def meanwhile(*given: Any) -> None:
        away.stack("z", ref="v1")
        fetch(*given)

    monkeypatch.setattr(pull_module, "_fetch_blobs", meanwhile)
    with pytest.raises(StackError, match="ref 'v1' moved meanwhile"):
        _pull(away, target)
    assert [entry.name for entry in read_stack(away.store, get_ref(away.store, "v1")).layers] == ["z"]


def test_the_bare_base_can_be_shared_too(home, away, target: str) -> None:
    _push(home, target)
    assert _pull(away, target).stack == home.bare


def test_commands(home, away, target: str, cli, monkeypatch) -> None:
    stack = home.stack("a", rows="secret")
    monkeypatch.chdir(home.folder)
    said = cli("push", "main", target)
    digest = pack_stack(home.store, stack, with_data=False).digest
    assert (said.code, said.out) == (0, f"{digest}\n")
    assert "left out: 2 files of sampled and held-out rows" in said.err
    assert "5 blobs sent" in said.err
    assert cli("push", target, "--json").json == {
        "reference": target,
        "digest": digest,
        "layers": ["a"],
        "sent": 0,
        "sent_bytes": 0,
        "present": 5,
        "left_out": 2,
    }
    monkeypatch.chdir(away.folder)
    said = cli("pull", target, "--as", "tools", "--json")
    assert said.json["ref"] == "tools"
    assert said.json["stack"] == stack_digest(stack)
    assert said.json["received"] == 4  # two configs, weights and rows; the parent is here
    said = cli("pull", target, "--as", "tools")
    assert said.out == f"tools  base+a  {stack_digest(stack)[7:19]}\n"
    assert "tools is up to date" in said.err
    assert all(len(line) <= 80 for line in said.out.splitlines())
    assert cli("push", "a", "b", "c").code == 2
    assert cli("pull", "tools").code == 2


def test_neither_command_imports_torch() -> None:
    code = (
        "import sys; import lamina.cli.push, lamina.cli.pull, lamina.ops.push, lamina.ops.pull; "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_results_are_frozen(home, target: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _push(home, target).sent = 3
    assert Digest.parse(_push(home, target).digest)
