"""The ledger and the bill: what is appended survives, a torn line does not count, and sums are right by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.config import CostSettings
from lamina.errors import StackError
from lamina.ops.bill import bill_of
from lamina.ops.ledger import LEDGER, Entry, append, read_ledger, total
from lamina.stack.manifest import StackConfig
from lamina.stack.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path)


def test_what_is_appended_is_read(store: Store) -> None:
    assert read_ledger(store) == []
    entries = [Entry(step="train", layer="a", tokens=3, trained=2, flops=1e9, seconds=0.5), Entry(step="gate")]
    for entry in entries:
        append(store, entry)
    assert read_ledger(store) == entries


def test_a_torn_line_does_not_count_and_gives_way(store: Store) -> None:
    append(store, Entry(step="train", tokens=3))
    whole = (store.root / LEDGER).read_bytes()
    for cut in range(1, len(whole)):
        (store.root / LEDGER).write_bytes(whole + whole[:cut])
        assert read_ledger(store) == [Entry(step="train", tokens=3)]
    append(store, Entry(step="gate", tokens=4))
    assert [entry.step for entry in read_ledger(store)] == ["train", "gate"]


def test_a_damaged_line_is_named(store: Store) -> None:
    append(store, Entry(step="train"))
    (store.root / LEDGER).write_bytes(b"{}\n" + (store.root / LEDGER).read_bytes())
    with pytest.raises(StackError, match=r"ledger.jsonl: line 1 is damaged"):
        read_ledger(store)


ENTRIES = st.lists(
    st.builds(
        Entry,
        step=st.sampled_from(["train", "gate"]),
        tokens=st.integers(0, 10**9),
        trained=st.integers(0, 10**9),
        seconds=st.floats(0, 1e6),
        flops=st.floats(0, 1e18),
    ),
    max_size=8,
)


@given(ENTRIES, ENTRIES)
def test_totals_add_up(first: list[Entry], second: list[Entry]) -> None:
    whole, parts = total([*first, *second]), total([total(first), total(second)])
    assert (whole.tokens, whole.trained) == (parts.tokens, parts.trained)
    assert whole.seconds == pytest.approx(parts.seconds)
    assert whole.flops == pytest.approx(parts.flops)


def test_a_bill_by_hand(project: Path, grow: Callable[..., StackConfig]) -> None:
    grow("a")
    stack = grow("b")
    store = Store.find(project)
    for layer, flops in (("a", 4000.0), ("b", 2000.0)):
        append(store, Entry(step="train", layer=layer, tokens=1000, trained=1000, flops=flops, seconds=10.0))
    append(store, Entry(step="gate", layer="b", tokens=500, flops=600.0, seconds=5.0))
    append(store, Entry(step="score", layer="", tokens=7, flops=7.0))
    append(store, Entry(step="remedy", layer="gone", tokens=9, flops=9.0))
    bill = bill_of(store, stack, CostSettings())
    first, second = bill.lines
    assert [entry.step for entry in second.steps] == ["train", "gate"]
    assert (first.spent.flops, second.spent.flops, bill.base.tokens, bill.rest.tokens) == (4000.0, 2600.0, 7, 9)
    # Each layer's own 1,000 tokens cost 3 operations each on average; joint runs go over 1,000 and 2,000 of them.
    assert (first.retrained.flops, second.retrained.flops) == (3000.0, 6000.0)
    assert second.share == pytest.approx(2600 / 6000)
    assert bill.spent.flops == 4000.0 + 2600.0 + 7.0 + 9.0
    assert bill.retrained.flops == 9000.0


def test_a_run_that_was_refused_would_not_be_made_again(project: Path, grow: Callable[..., StackConfig]) -> None:
    stack = grow("a")
    store = Store.find(project)
    for trained in (5000, 1000):  # refused, then as the layer is
        append(store, Entry(step="train", layer="a", tokens=trained, trained=trained, flops=3.0 * trained))
    (line,) = bill_of(store, stack, CostSettings()).lines
    assert (line.spent.flops, line.retrained.flops) == (18_000.0, 3000.0)


def test_a_layer_whose_operations_nobody_counted_makes_none_cheaper(
    project: Path, grow: Callable[..., StackConfig]
) -> None:
    grow("pulled")
    stack = grow("b")
    store = Store.find(project)
    append(store, Entry(step="train", layer="b", tokens=1000, trained=1000, flops=2000.0))
    _, second = bill_of(store, stack, CostSettings()).lines
    assert second.retrained.flops == 4000.0


def test_without_a_ledger_the_layers_own_records_count(project: Path, grow: Callable[..., StackConfig]) -> None:
    grow("a")
    stack = grow("b", seconds=3600.0)
    bill = bill_of(Store.find(project), stack, CostSettings(watts=100.0, price_kwh=0.5))
    assert [line.spent.tokens for line in bill.lines] == [1000, 1000]
    assert bill.lines[1].spent.money == pytest.approx(0.05)
    assert bill.lines[1].retrained.tokens == 2000
    assert bill.lines[1].share == 0.5


def test_a_joint_run_goes_over_no_replayed_token(project: Path, grow: Callable[..., StackConfig]) -> None:
    grow("a", mixed_in=0.0)
    stack = grow("b", mixed_in=0.25)
    bill = bill_of(Store.find(project), stack, CostSettings())
    assert [line.retrained.tokens for line in bill.lines] == [1000, 1000 + 800]


def test_the_bill_is_printed_without_torch(project: Path, cli: Callable[..., Any], grow: Callable[..., Any]) -> None:
    grow("a")
    told = cli("log", "--cost")
    assert told.code == 0, told.err
    assert "retrained, 100% of it spent" in told.out
    assert max(len(line) for line in told.out.splitlines()) <= 80
    assert cli("log", "--cost", "--json").json["lines"][0]["spent"]["tokens"] == 1000
    code = (
        "import sys; from lamina.cli.main import run_command; run_command(['log', '--cost', '--json']); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=project)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["shares"] == [1.0]
