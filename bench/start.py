"""How long a newcomer waits: ``lamina --help``, loading the base warm, and ``make demo`` from a fresh clone.

    python bench/start.py [--skip-demo]

The base is loaded in a fresh process each time; beside it stands transformers' own way of loading the same GGUF file.
``make demo`` starts with ``git clone`` and without a cached base: installing and dequantising are in its wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from report import publish

from lamina.model.bundled import installed_gguf, prepare_bundled
from lamina.records import Quiet

_LOAD_OURS = """
import time
from lamina.config import BaseSettings
from lamina.model.base import load_base, resolve_base
from lamina.records import Quiet
started = time.perf_counter()
load_base(resolve_base(BaseSettings(), Quiet()))
print(time.perf_counter() - started)
"""
_LOAD_GGUF = """
import sys, time
import torch
from pathlib import Path
from transformers import AutoModelForCausalLM
gguf = Path(sys.argv[1])
started = time.perf_counter()
AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
print(time.perf_counter() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-demo", action="store_true", help="only the times that take seconds")
    options = parser.parse_args()
    prepare_bundled(Quiet())
    figures: dict[str, Any] = {"help_s": _median(9, _help), "base_load_s": _median(5, lambda: _load(_LOAD_OURS))}
    gguf = installed_gguf()
    if gguf is not None:
        figures["transformers_gguf_load_s"] = _median(3, lambda: _load(_LOAD_GGUF, str(gguf)))
    if not options.skip_demo:
        figures["demo"] = _demo()
    publish("start", figures)


def _median(times: int, measure: Any) -> float:
    return round(statistics.median(measure() for _ in range(times)), 3)


def _help() -> float:
    started = time.perf_counter()
    subprocess.run([Path(sys.executable).parent / "lamina", "--help"], check=True, capture_output=True)
    return time.perf_counter() - started


def _load(code: str, *arguments: str) -> float:
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def _demo() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as scratch:
        clone = Path(scratch) / "lamina"
        environment = {**os.environ, "LAMINA_CACHE": str(Path(scratch) / "cache")}
        started = time.perf_counter()
        subprocess.run(["git", "clone", "-q", Path(__file__).resolve().parents[1], clone], check=True)
        command = ["make", "-s", "demo", "ARGS=--json", f"PYTHON={sys.executable}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=clone, env=environment)
        wall_s = round(time.perf_counter() - started, 1)
    said = json.loads(done.stdout.splitlines()[-1])
    return {
        "clone_to_chart_s": wall_s,
        "after_installation_s": said["elapsed_s"],
        **{key: said[key] for key in ("stacks", "suites", "scores")},
    }


if __name__ == "__main__":
    main()
