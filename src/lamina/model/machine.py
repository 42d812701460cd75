"""What this machine can compute with, detected and never assumed."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from pathlib import Path

import torch

from lamina.errors import MachineError
from lamina.kernels.compiled import compile_kernels
from lamina.kernels.native import build_native
from lamina.kernels.reference import TorchKernels
from lamina.kernels.shapes import Kernels

__all__ = [
    "cache_folder",
    "describe_machine",
    "keep_freed_memory",
    "pick_device",
    "pick_dtype",
    "pick_kernels",
    "require_disk",
]


# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def pick_device() -> torch.device:
    """Return the accelerator if torch sees one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies it in hardware, else float32.

    A CPU without AVX512-BF16 or AMX emulates bfloat16 several times slower than float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    flags = _cpu_flags()
    return torch.bfloat16 if "amx_bf16" in flags or "avx512_bf16" in flags else torch.float32


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks instead of giving them back to the system; elsewhere nothing happens.

    Every training step asks for the same large blocks again, and a block that was given back has to be mapped and
    zeroed anew, page by page, when it is next written to.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    for option, value in ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1)):
        libc.mallopt(option, value)


def describe_machine() -> dict[str, str | int]:
    """Return what a benchmark or a layer must say about where it ran."""
    device = pick_device()
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": str(pick_dtype(device)).removeprefix("torch."),
        "kernels": pick_kernels(device).name,
        "torch": torch.__version__,
        "system": platform.platform(terse=True),
    }


def pick_kernels(device: torch.device) -> Kernels:
    """Return the kernels compiled for this CPU, built on first use; torch's own without a compiler.

    On a GPU torch compiles them, where it has Triton to compile with.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        # What torch compiles goes to a temporary folder otherwise, and is compiled again after a restart.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
        return compile_kernels()
    if device.type == "cpu" and sys.platform == "linux":
        found = build_native(cache_folder() / "kernels", f"{_cpu_name()} {sorted(_cpu_flags())}")
        if found is not None:
            return found
    return TorchKernels()


def cache_folder() -> Path:
    """Return the folder for bases that are made once: ``$LAMINA_CACHE``, else ``lamina`` in the user's cache folder."""
    if named := os.environ.get("LAMINA_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamina"


def require_disk(folder: Path, needed_bytes: int, *, purpose: str) -> None:
    """Check that the disk below ``folder`` (which need not exist yet) has room.

    Raises:
        MachineError: naming what is needed, what is free and for what.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    stat = os.statvfs(existing)
    free_bytes = stat.f_bavail * stat.f_frsize
    if free_bytes < needed_bytes:
        raise MachineError(
            f"{existing}: not enough disk {purpose}: needs {needed_bytes // 10**6:,} MB, has {free_bytes // 10**6:,}",
            hint="free some space (LAMINA_CACHE names another folder for bases)",
        )


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpuinfo("flags").split())


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
