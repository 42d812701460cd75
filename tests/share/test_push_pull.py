"""``lamina push`` and ``lamina pull`` from one project into another, through a real registry."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oras.client import OrasClient

from lamina.errors import StackError, UsageError
from lamina.refs import Digest
from lamina.stack.fsck import check_store
from lamina.stack.layers import pack_stack, read_layer, read_stack, stack_digest, write_stack
from lamina.stack.lineage import get_ref, history, set_ref
from lamina.stack.order import add_layer, drop_layer, rescale_layer


def test_a_stack_arrives_as_it_left(home, away, target: str) -> None:
    stack = home.stack("a", "b", size=5000)
    pushed = home.push(target)
    pulled = away.pull(target)
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
    home.push(target, digest)
    assert stack_digest(away.pull(target).stack) == get_ref(away.store, f"t{digest[7:19]}") == digest


def test_pushed_again_no_blob_is_sent(home, proxy, repository: str) -> None:
    home.stack("a", "b")
    target = f"{proxy.name}/{repository}:v1"
    first = home.push(target)
    assert first.sent == 9  # config, two parents, and for each layer config, weights and rows
    proxy.requests.clear()
    again = home.push(target)
    assert (again.sent, again.sent_bytes, again.present) == (0, 0, 9)
    assert {line.split()[0] for line in proxy.requests} == {"HEAD", "PUT"}
    assert [line.split()[1] for line in proxy.requests if line.startswith("PUT")] == [f"/v2/{repository}/manifests/v1"]
    assert again.digest == first.digest


@pytest.mark.parametrize("other", ["", "x"])
def test_layers_that_stacks_share_are_sent_once(home, proxy, repository: str, other: str) -> None:
    home.stack("a")
    home.push(f"{proxy.name}/{repository}:one")
    home.stack("a", "b", ref="two")
    sent = home.push(f"{proxy.name}/{repository}{other}:two", "two")
    assert sent.sent == 4  # the stack's config; config, weights and rows of b. Its parent is the first stack
    assert sent.present == 5
    assert 1000 < sent.sent_bytes < 5000


def test_pulled_again_nothing_is_received(home, away, proxy, repository: str) -> None:
    home.stack("a", "b", size=50_000)
    target = f"{proxy.name}/{repository}:v1"
    home.push(target)
    away.pull(target)
    before, files = proxy.down_bytes, away.files()
    again = away.pull(target)
    assert (again.received, again.received_bytes, again.moved) == (0, 0, False)
    assert proxy.down_bytes - before < 5000
    assert away.files() == files


def test_only_layers_that_are_not_here_are_received(home, away, proxy, repository: str) -> None:
    home.stack("a", size=50_000)
    home.push(f"{proxy.name}/{repository}:v1")
    away.pull(f"{proxy.name}/{repository}:v1")
    home.stack("a", "b", size=50_000)
    home.push(f"{proxy.name}/{repository}:v2")
    before = proxy.down_bytes
    assert 50_000 < away.pull(f"{proxy.name}/{repository}:v2").received_bytes < 60_000
    assert proxy.down_bytes - before < 65_000


def test_private_rows_stay_at_home_unless_sent(home, away, make_home, target: str) -> None:
    stack = home.stack("a", rows="secret")
    layer = read_layer(home.store, stack.layers[0].layer)
    assert layer.replay is not None
    assert layer.heldout is not None
    pushed = home.push(target)
    assert pushed.left_out == 2
    away.pull(target)
    assert not away.store.has(layer.replay)
    assert not away.store.has(layer.heldout)
    assert away.push(target, "v1").digest == pushed.digest
    assert home.push(target, with_data=True).left_out == 0
    third = make_home("third")
    third.pull(target)
    assert third.store.read_bytes(layer.replay) == b"secret replayed"
    assert third.store.read_bytes(layer.heldout) == b"secret held out"


def test_what_was_moved_on_purpose_arrives_with_its_parents(home, away, target: str) -> None:
    stack = drop_layer(home.store, home.stack("a", "b"), "a")
    set_ref(home.store, "moved", write_stack(home.store, stack), why="drop a")
    home.push(target, "moved")
    away.pull(target)
    parent = read_layer(away.store, stack.layers[0].layer).parent
    assert [entry.name for entry in read_stack(away.store, parent).layers] == ["a"]


def test_a_sum_typed_by_hand_is_pushed_if_its_layers_lie_on_their_parents(home, away, target: str) -> None:
    home.stack("a", "b")
    home.push(target, "base+a")
    assert [entry.name for entry in away.pull(target).stack.layers] == ["a"]
    with pytest.raises(StackError, match="layer 'b' was trained on stack") as caught:
        home.push(target, "base+b")
    assert "lamina drop" in caught.value.hint


def test_other_tools_see_files_with_names(home, target: str, tmp_path: Path) -> None:
    stack = home.stack("a", "b")
    home.push(target)
    found = OrasClient(insecure=True).pull(target, outdir=str(tmp_path / "out"))
    names = {str(Path(path).relative_to(tmp_path / "out")) for path in found}
    assert {"0-a/layer.json", "0-a/weights.safetensors", "1-b/weights.safetensors", "1-b/rows.txt"} <= names
    layer = read_layer(home.store, stack.layers[0].layer)
    assert (tmp_path / "out/0-a/weights.safetensors").read_bytes() == home.store.read_bytes(layer.weights)
    assert json.loads((tmp_path / "out/0-a/layer.json").read_bytes())["name"] == "a"


def test_a_ref_goes_forwards_only(home, away, target: str) -> None:
    home.stack("a")
    home.push(target)
    away.pull(target, ref="main")  # from the bare base
    home.stack("a", "b")
    home.push(target)
    assert away.pull(target, ref="main").moved
    set_ref(home.store, "main", write_stack(home.store, home.stack("a", "c")), why="other")
    home.push(target)
    before = away.files()
    with pytest.raises(StackError, match=r"'main' is base\+a\+b here .* base\+a\+c .* does not continue it") as caught:
        away.pull(target, ref="main")
    assert "--as OTHER" in caught.value.hint
    assert "--force" in caught.value.hint
    assert {name: away.files()[name] for name in before} == before
    assert away.pull(target, ref="main", force=True).moved
    assert [move.why for move in history(away.store, "main")].count(f"pull {target}") == 3


def test_another_scale_is_not_forwards(home, away, target: str) -> None:
    stack = home.stack("a")
    home.push(target)
    away.pull(target)
    set_ref(home.store, "main", write_stack(home.store, rescale_layer(home.store, stack, "a", 0.5)), why="scale")
    home.push(target)
    with pytest.raises(StackError, match=r"'v1' is base\+a here .* base\+a:0\.5"):
        away.pull(target)


def test_a_tag_does_not_move(home, away, target: str) -> None:
    set_ref(away.store, "v1", write_stack(away.store, away.bare), why="tag", tag=True)
    home.stack("a")
    home.push(target)
    with pytest.raises(StackError, match="'v1' is a tag, and tags do not move"):
        away.pull(target)


def test_a_tag_that_cannot_name_a_ref_needs_a_name(home, away, server, repository: str) -> None:
    home.stack("a")
    pushed = home.push(f"{server.name}/{repository}:1.0")
    for target in (f"{server.name}/{repository}:1.0", f"{server.name}/{repository}@{pushed.digest}"):
        with pytest.raises(UsageError, match="cannot name a ref") as caught:
            away.pull(target)
        assert caught.value.hint == f"name the ref: lamina pull {target} --as NAME"
        assert away.pull(target, ref="tools").ref == "tools"


def test_a_digest_cannot_be_pushed(home, server) -> None:
    with pytest.raises(UsageError, match="names a digest, which no push can choose"):
        home.push(f"{server.name}/tools@sha256:{'0' * 64}")


def test_the_bare_base_can_be_shared_too(home, away, target: str) -> None:
    home.push(target)
    assert away.pull(target).stack == home.bare


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
        home.push(target).sent = 3
    assert Digest.parse(home.push(target).digest)
