"""How much goes through at once: measured, and less when memory runs out, with the same result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lamina.errors import MachineError
from lamina.lora.surgery import attach, fresh_adapter, set_trained
from lamina.model.base import LoadedBase
from lamina.records import TokenRow
from lamina.train import memory, passes
from lamina.train.memory import MicroBatch, free_bytes, is_out_of_memory
from lamina.train.passes import accumulate
from lamina.train.state import TrainState

ROWS = [TokenRow(tuple(range(2, 2 + length)), (False,) * 2 + (True,) * (length - 2)) for length in (9, 17, 12, 30)]


def gradient(base: LoadedBase, micro: MicroBatch) -> tuple[float, torch.Tensor]:
    attach(base.model, [])
    state = TrainState(fresh_adapter(base.model, 4, seed=0), base.device)
    state.values.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    set_trained(base.model, state.pairs, 2.0)
    return accumulate(base, state, ROWS, micro).loss, state.gradient.clone()


def test_more_room_means_more_tokens_up_to_what_is_fast(any_base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    state = TrainState(fresh_adapter(any_base.model, 4, seed=0), any_base.device)
    set_trained(any_base.model, state.pairs, 2.0)
    found = []
    for room in (10**5, 10**6, 10**7, 10**12):
        monkeypatch.setattr(memory, "free_bytes", lambda device, room=room: room)
        found.append(MicroBatch.measured(any_base))
    tokens = [micro.tokens for micro in found]
    assert tokens == sorted(tokens)
    assert tokens[0] < tokens[-1] == memory._MOST_TOKENS["cpu"]
    assert not found[-1].recompute
    assert found[0].recompute == (any_base.fused is not None)


def test_what_is_kept_per_token_is_what_autograd_keeps(llama_base: LoadedBase) -> None:
    assert llama_base.fused is not None
    rows = [TokenRow(tuple(range(2, 202)), (False,) + (True,) * 199)]
    expected = llama_base.fused.bytes_per_token(4, recompute=False)
    fewer = llama_base.fused.bytes_per_token(4, recompute=True)
    state = TrainState(fresh_adapter(llama_base.model, 4, seed=0), llama_base.device)
    set_trained(llama_base.model, state.pairs, 2.0)
    states, _ = llama_base.last_states(rows)
    kept, node = 0, states.grad_fn
    while node is not None:
        rest = getattr(node, "rest", None)
        if rest is not None and len(rest) == 4:
            block_kept = rest[3]
            tensors = [block_kept.qkv, block_kept.attended, block_kept.after, block_kept.both, node.saved_tensors[0]]
            kept += sum(tensor.nbytes for tensor in tensors)
        node = node.next_functions[0][0] if node.next_functions else None
    assert 0.4 * expected < kept / 200 < expected
    assert fewer < expected


def test_running_out_of_memory_changes_how_a_step_is_cut_and_not_what_it_gives(
    any_base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_loss, whole = gradient(any_base, MicroBatch(1000))
    largest = 40
    plain = LoadedBase.last_states

    def scarce(self: LoadedBase, rows: list[TokenRow], *, recompute: bool = False) -> object:
        if sum(len(row.ids) for row in rows) > largest:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return plain(self, rows, recompute=recompute)

    monkeypatch.setattr(LoadedBase, "last_states", scarce)
    micro = MicroBatch(1000)
    loss, found = gradient(any_base, micro)
    assert micro.tokens <= largest
    assert micro.recompute == (any_base.fused is not None)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-4)


def test_a_row_too_large_for_the_machine_is_named(llama_base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> object:
        raise MemoryError

    monkeypatch.setattr(LoadedBase, "last_states", nothing)
    with pytest.raises(MachineError, match="a row of 30 tokens does not fit"):
        gradient(llama_base, MicroBatch(1000))


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    llama_base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(passes, "pack_rows", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        gradient(llama_base, MicroBatch(1000))


def test_recomputing_gives_equal_bits(llama_base: LoadedBase) -> None:
    loss, found = gradient(llama_base, MicroBatch(40))
    again, recomputed = gradient(llama_base, MicroBatch(40, recompute=True))
    assert loss == again
    assert torch.equal(found, recomputed)


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_a_shell_limit_counts_and_torch_says_so_when_it_is_met(tmp_path: Path) -> None:
    code = (
        "import resource, torch; from lamina.train.memory import free_bytes, is_out_of_memory\n"
        "lines = open('/proc/self/status').readlines()\n"
        "used = int(next(l.split()[1] for l in lines if l.startswith('VmSize'))) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        "assert 2**27 < free_bytes(torch.device('cpu')) <= 2**28 + 2**20\n"
        "try:\n    torch.empty(2**31)\nexcept RuntimeError as error:\n    assert is_out_of_memory(error), error\n"
        "else:\n    raise SystemExit('no limit')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_free_memory_is_some_and_no_more_than_there_is() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = int(next(line.split()[1] for line in lines if line.startswith("MemTotal"))) * 1024
    assert 0 < free_bytes(torch.device("cpu")) <= total
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
