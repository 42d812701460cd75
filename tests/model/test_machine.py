"""bfloat16 only where the hardware multiplies it."""

import pytest
import torch

from lamina.model import machine


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu avx2 fma", torch.float32),
        ("fpu avx2 avx512f", torch.float32),
        ("fpu avx512f avx512_bf16", torch.bfloat16),
        ("fpu amx_tile amx_bf16", torch.bfloat16),
        ("", torch.float32),
    ],
)
def test_dtype_follows_the_cpu(flags: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda key: flags)
    assert machine.pick_dtype(torch.device("cpu")) == dtype
