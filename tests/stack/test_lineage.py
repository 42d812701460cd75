from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from lamina.errors import StackError, UsageError
from lamina.stack import resolve as resolve_module
from lamina.stack.layers import list_stacks, stack_digest, write_stack
from lamina.stack.lineage import (
    delete_ref,
    get_current,
    get_head,
    get_ref,
    history,
    list_refs,
    list_tags,
    set_head,
    set_ref,
    undone_to,
)
from lamina.stack.manifest import BasePin, StackConfig
from lamina.stack.order import add_layer
from lamina.stack.resolve import resolve
from lamina.stack.store import Store


@pytest.fixture
def grown(store: Store, bare: StackConfig, bake) -> list[StackConfig]:
    """Return the stacks that ``main`` has held: the base, base+a, base+a+b."""
    on_a = add_layer(store, bare, bake("alpha"))
    stacks = [bare, on_a, add_layer(store, on_a, bake("beta", on_a))]
    for stack in stacks:
        set_ref(
            store, "main", write_stack(store, stack), why=f"{len(stack.layers)} layers", expect=get_ref(store, "main")
        )
    return stacks


def test_a_ref_moves_and_remembers(store: Store, grown) -> None:
    bare, on_a, on_b = map(stack_digest, grown)
    assert get_ref(store, "main") == on_b
    assert get_ref(store, "other") is None
    moves = history(store, "main")
    assert [(move.old, move.new, move.why) for move in moves] == [
        (on_a, on_b, "2 layers"),
        (bare, on_a, "1 layers"),
        ("", bare, "0 layers"),
    ]
    assert all(move.when.endswith("+00:00") for move in moves)


def test_two_refs_on_one_stack_move_apart(store: Store, grown) -> None:
    top, below = stack_digest(grown[2]), stack_digest(grown[1])
    set_ref(store, "try", top, why="branch", expect=None)
    set_ref(store, "main", below, why="undo", expect=top)
    assert list_refs(store) == {"main": below, "try": top}
    assert resolve(store, top[7:19], grown[0].base) == grown[2]


def test_a_ref_that_moved_meanwhile_is_left(store: Store, grown) -> None:
    bare, on_a, on_b = map(stack_digest, grown)
    with pytest.raises(StackError, match=f"'main' moved meanwhile: expected {on_a[7:19]}, found {on_b[7:19]}"):
        set_ref(store, "main", bare, why="late", expect=on_a)
    with pytest.raises(StackError, match="expected no such ref"):
        set_ref(store, "main", bare, why="born twice", expect=None)
    assert (get_ref(store, "main"), len(history(store, "main"))) == (on_b, 3)
    set_ref(store, "main", bare, why="from anywhere")
    assert get_ref(store, "main") == bare


def test_a_ref_holds_only_stacks_of_this_store(store: Store, grown) -> None:
    for digest in ("sha256:" + "0" * 64, grown[1].layers[0].layer):
        with pytest.raises(StackError, match="is not in"):
            set_ref(store, "main", digest, why="x")


@pytest.mark.parametrize("name", ["../index.json", "base", ""])
def test_a_ref_name_cannot_leave_its_folder(store: Store, grown, name: str) -> None:
    with pytest.raises(UsageError):
        set_ref(store, name, stack_digest(grown[0]), why="x")
    with pytest.raises(UsageError):
        history(store, name)


def test_one_of_several_threads_wins(store: Store, grown) -> None:
    start, targets, lost = stack_digest(grown[2]), [stack_digest(stack) for stack in grown[:2]] * 2, []
    gate = threading.Barrier(len(targets))

    def race(digest: str) -> None:
        gate.wait()
        try:
            set_ref(store, "main", digest, why="race", expect=start)
        except StackError as error:
            lost.append(error)

    threads = [threading.Thread(target=race, args=(digest,)) for digest in targets]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(lost) == len(targets) - 1
    assert len(history(store, "main")) == 4


def test_one_of_two_processes_wins(store: Store, grown) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom lamina.stack.lineage import set_ref\n"
        "from lamina.stack.store import Store\nfrom lamina.errors import StackError\n"
        "try:\n    set_ref(Store(Path(sys.argv[1])), 'main', sys.argv[2], why='race', expect=sys.argv[3])\n"
        "except StackError:\n    sys.exit(7)\n"
    )
    args = [sys.executable, "-c", code, str(store.root), stack_digest(grown[0]), stack_digest(grown[2])]
    racers = [subprocess.Popen(args) for _ in range(2)]
    assert sorted(racer.wait(60) for racer in racers) == [0, 7]


def test_a_crash_between_log_and_index_leaves_no_move(store: Store, grown, monkeypatch: pytest.MonkeyPatch) -> None:
    before, target = history(store, "main"), stack_digest(grown[0])

    def crash(self: Store, index: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_index", crash)
        with pytest.raises(KeyboardInterrupt):
            set_ref(store, "main", target, why="crash")
    assert get_ref(store, "main") == stack_digest(grown[2])
    assert history(store, "main") == before
    set_ref(store, "main", target, why="again")
    assert [move.why for move in history(store, "main")] == ["again", *(move.why for move in before)]


def test_torn_and_damaged_logs(store: Store, grown) -> None:
    log = store.root / "logs" / "main"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"old": "sha')
    assert len(history(store, "main")) == 3
    log.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(StackError, match="main: damaged"):
        history(store, "main")


def test_resolve_covers_the_grammar(store: Store, grown, pin: BasePin) -> None:
    bare, on_a, on_b = grown
    alpha, beta = (entry.layer for entry in on_b.layers)
    assert resolve(store, "main", pin) == resolve(store, stack_digest(on_b), pin) == on_b
    assert resolve(store, "main~", pin) == resolve(store, "main~1", pin) == on_a
    assert resolve(store, "main~2", pin) == resolve(store, "base", pin) == bare
    assert resolve(store, stack_digest(on_a)[7:19], pin) == on_a
    assert resolve(store, "base+alpha+beta", pin) == on_b
    assert resolve(store, "main~1+beta", pin) == on_b
    half = resolve(store, f"base+{alpha[7:19]}+beta:0.5", pin)
    assert [(entry.layer, entry.name, entry.scale) for entry in half.layers] == [
        (alpha, "alpha", 1),
        (beta, "beta", 0.5),
    ]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("mian", "no ref or stack 'mian'", "did you mean 'main'?"),
        ("zzz", "no ref or stack 'zzz'", "refs here: main"),
        ("base+alpah", "no layer 'alpah'", "did you mean 'alpha'?"),
        ("main~9", "'main~9': ref 'main' has only 2 earlier stacks", "`lamina log main` lists them"),
        ("base~1", "'base~1': 'base' is not a ref, so nothing came before it", "refs here: main"),
    ],
)
def test_what_names_nothing_is_explained(store: Store, grown, pin: BasePin, text: str, message: str, hint: str) -> None:
    with pytest.raises(StackError) as caught:
        resolve(store, text, pin)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_an_ambiguous_prefix_lists_what_it_fits(store, grown, pin, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks = ["sha256:abcd" + digit * 60 for digit in "01"]
    monkeypatch.setattr(resolve_module, "list_stacks", lambda store: stacks)
    with pytest.raises(StackError, match="'abcd' is short for 2 stacks") as caught:
        resolve(store, "abcd", pin)
    assert all(digest[7:] in caught.value.hint for digest in stacks)
    layers = [(digest, None) for digest in stacks]
    monkeypatch.setattr(resolve_module, "has_prefix", lambda digest, text: digest.startswith("sha256:abcd"))
    with pytest.raises(StackError, match="'abcd' is short for 2 layers"):
        resolve_module._check_one("abcd", [digest for digest, _ in layers], "layers")


def test_a_shared_layer_name_means_the_one_in_main_else_the_newest(store, bare, pin, bake) -> None:
    old, new = bake("twin", created="2026-01-01T00:00:00+00:00"), bake("twin", created="2026-02-01T00:00:00+00:00")
    assert resolve(store, "base+twin", pin).layers[0].layer == new
    set_ref(store, "main", write_stack(store, add_layer(store, bare, old)), why="old")
    assert resolve(store, "base+twin", pin).layers[0].layer == old


def test_undo_goes_back_step_by_step_and_forward_again(store: Store, grown) -> None:
    bare, on_a, on_b = map(stack_digest, grown)

    def undo() -> str | None:
        move = undone_to(history(store, "main"))
        if move is not None:
            set_ref(store, "main", move.old, why=f"undo {move.why}", undo=True)
        return move and move.why

    assert undo() == "2 layers"
    assert get_ref(store, "main") == on_a
    assert undo() == "1 layers"
    assert undo() is None  # its birth cannot be undone
    assert get_ref(store, "main") == bare
    set_ref(store, "main", on_b, why="again")
    assert undo() == "again"
    assert get_ref(store, "main") == bare


def test_a_tag_stays_where_it_is(store: Store, grown) -> None:
    bare, on_a, on_b = map(stack_digest, grown)
    set_ref(store, "v1", on_a, why="tag", expect=None, tag=True)
    with pytest.raises(StackError, match="'v1' is a tag, and tags do not move") as caught:
        set_ref(store, "v1", on_b, why="move")
    assert "lamina tag --delete v1" in caught.value.hint
    assert (list_tags(store), list_refs(store)) == ({"v1"}, {"main": on_b, "v1": on_a})
    with pytest.raises(StackError, match="'v1' is a tag"):
        set_head(store, "v1")
    set_ref(store, "main", on_a, why="same stack")
    set_ref(store, "main", bare, why="and away")
    assert (list_tags(store), get_ref(store, "v1")) == ({"v1"}, on_a)


def test_the_current_branch_is_main_until_switched(store: Store, grown) -> None:
    assert get_head(store) == "main"
    with pytest.raises(StackError, match="no ref 'tyr'") as caught:
        set_head(store, "tyr")
    assert caught.value.hint == "refs here: main"
    set_ref(store, "try", stack_digest(grown[1]), why="branch")
    set_head(store, "try")
    assert get_current(store) == ("try", stack_digest(grown[1]))
    with pytest.raises(StackError, match="'try' is the current branch"):
        delete_ref(store, "try")


def test_a_deleted_ref_leaves_its_stack(store: Store, grown) -> None:
    on_a = stack_digest(grown[1])
    set_ref(store, "try", on_a, why="branch", expect=None)
    assert delete_ref(store, "try") == on_a
    assert list_refs(store) == {"main": stack_digest(grown[2])}
    assert on_a in list_stacks(store)
    assert history(store, "try") == []
    with pytest.raises(StackError, match="no ref 'try'"):
        delete_ref(store, "try")
