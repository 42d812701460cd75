from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lamina.errors import MachineError, StackError
from lamina.refs import Digest
from lamina.stack import store as store_module
from lamina.stack.store import Store


def test_find_walks_up(store: Store) -> None:
    deep = store.project / "a" / "b"
    deep.mkdir(parents=True)
    assert Store.find(deep).root == store.root


def test_find_without_a_project_names_init(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="not inside a lamina project") as caught:
        Store.find(tmp_path)
    assert "lamina init" in caught.value.hint


def test_creating_twice_keeps_the_index(store: Store, bake) -> None:
    bake("a")
    before = store.read_index()
    assert Store.create(store.project).read_index() == before


def test_put_then_read_gives_the_bytes_back(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "blob.bin"
    file.write_bytes(os.urandom(3 << 20))
    from_file = store.put_file(file, "t")
    assert from_file == store.put_bytes(file.read_bytes(), "t")
    assert store.read_bytes(Digest.parse(from_file.digest)) == file.read_bytes()
    assert store.has(from_file.digest)
    assert store.blob_path(from_file.digest).stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (store.root / "blobs/sha256").iterdir()] == [from_file.digest[7:]]


def test_put_file_that_is_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"gone\.bin: cannot be read: No such file"):
        store.put_file(tmp_path / "gone.bin", "t")


def test_damaged_and_missing_blobs_are_named(store: Store) -> None:
    blob = store.put_bytes(b"good", "t")
    store.blob_path(blob.digest).write_bytes(b"bad")
    with pytest.raises(StackError, match=f"blob {blob.digest[:19]} in .* is damaged"):
        store.read_bytes(blob.digest)
    store.blob_path(blob.digest).unlink()
    with pytest.raises(StackError, match=f"blob {blob.digest[:19]} is missing"):
        store.read_bytes(blob.digest)
    with pytest.raises(StackError, match="'nonsense' is not a digest"):
        store.read_bytes("nonsense")


def test_putting_again_mends_a_damaged_blob(store: Store) -> None:
    blob = store.put_bytes(b"good", "t")
    store.blob_path(blob.digest).write_bytes(b"bad")
    store.put_bytes(b"good", "t")
    assert store.read_bytes(blob.digest) == b"good"


def test_damaged_index(store: Store) -> None:
    (store.root / "index.json").write_text('{"schemaVersion": 2, "manif')
    with pytest.raises(StackError, match=r"index\.json: missing or damaged"):
        store.read_index()


def test_crash_before_the_rename_leaves_a_valid_layout(store: Store, bake, monkeypatch: pytest.MonkeyPatch) -> None:
    bake("a")
    before = store.read_index()
    files = {path for path in store.root.rglob("*") if path.is_file()}
    real, calls = os.replace, 0

    def crash(*args: object, **kwargs: object) -> None:
        nonlocal calls
        calls += 1
        if calls > survived:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    for survived in range(4):  # weights, configuration, manifest, index
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", crash)
            with pytest.raises(KeyboardInterrupt):
                bake(f"b{survived}")
        assert store.read_index() == before
        assert not list(store.root.rglob(".*-*")), "a scratch file was left"
        for path in (store.root / "blobs/sha256").iterdir():
            store.read_bytes(f"sha256:{path.name}")
    assert files <= {path for path in store.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")])
def test_full_or_read_only_disk_is_one_sentence(store: Store, monkeypatch: pytest.MonkeyPatch, code: int, words: str):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(MachineError, match=words):
        store.put_bytes(b"x", "t")


def test_lock_gives_up_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_LOCK_WAIT_S", 0.05)
    with (
        store.lock(),
        pytest.raises(StackError, match=r"another lamina has held the lock for 0\.05 seconds"),
        store.lock(),
    ):
        pass


def test_an_error_under_the_lock_is_not_called_a_disk_error(store: Store) -> None:
    with pytest.raises(FileNotFoundError), store.lock():
        raise FileNotFoundError


def test_a_torn_last_log_line_is_replaced(store: Store) -> None:
    store.append_log("main", {"k": 1})
    log = store.root / "logs" / "main"
    log.write_bytes(log.read_bytes() + b'{"k": 2')
    store.append_log("main", {"k": 3})
    assert log.read_text().splitlines() == ['{"k": 1}', '{"k": 3}']


def test_lock_lets_one_thread_in_at_a_time(store: Store) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with store.lock():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert most == 1


def test_the_store_never_imports_torch() -> None:
    code = (
        "import sys, lamina.stack.store, lamina.stack.manifest, lamina.stack.layers, lamina.stack.lineage\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
