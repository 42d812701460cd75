"""``lamina doctor``: what this machine can do, measured in a few seconds."""

from __future__ import annotations

import shutil
import time

import torch

from lamina.model.bundled import bundled_folder
from lamina.model.machine import cache_folder, describe_machine, pick_device, pick_dtype

__all__ = ["examine"]

_SHAPE = (512, 576, 1536)


def examine() -> dict[str, str | int | float | bool]:
    """Return machine, versions, disk, and the matrix rate at the bundled base's own shapes, in GFLOP/s."""
    device = pick_device()
    dtype = pick_dtype(device)
    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    report: dict[str, str | int | float | bool] = dict(describe_machine())
    report["gflops_float32"] = round(_rate(device, torch.float32))
    if dtype != torch.float32:
        report["gflops_" + str(dtype).removeprefix("torch.")] = round(_rate(device, dtype))
    report["disk_free_gb"] = round(shutil.disk_usage(existing).free / 1e9, 1)
    report["cache"] = str(cache)
    report["base_ready"] = (bundled_folder() / "config.json").exists()
    return report


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    rows, d_in, d_out = _SHAPE
    x = torch.randn(rows, d_in, device=device).to(dtype)
    weight = torch.randn(d_out, d_in, device=device).to(dtype)
    for _ in range(3):
        x @ weight.t()
    _wait(device)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 0.5:
        x @ weight.t()
        count += 1
    _wait(device)
    return 2 * rows * d_in * d_out * count / (time.perf_counter() - started) / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
