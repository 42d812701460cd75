"""The process that holds llama.cpp: ``python -m lamina.serve.llama_child``, its settings as one JSON line on stdin.

A process of its own, because llama.cpp ends the one it runs in where it cannot go on, and because adapters can be given
to it only when it starts: new layers appear in a second process that maps the same file of weights. It lives until its
stdin closes, so that it never outlives whoever started it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import xllamacpp

__all__ = ["main"]


def main() -> None:
    """Serve on a Unix socket until stdin closes; ``ready`` on stdout says that the model is loaded."""
    settings = json.loads(sys.stdin.readline())
    server = xllamacpp.Server(_params(settings))
    print("ready", server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)  # taking the model apart takes a while, and there is nothing to keep


def _params(settings: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapters"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context"]
    params.kv_unified = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    # Prompts kept in memory between slots are found by their tokens alone, whatever layers they were computed with.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.hostnames = [settings["socket"]]
    params.ui = False
    params.endpoint_slots = False
    params.cors_origins = ""
    params.fit_params = False
    params.warmup = False
    params.verbosity = 1  # errors alone
    if settings["embeds"]:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_batch = params.n_ubatch = settings["context"]  # a mean is taken within one batch
    return params


if __name__ == "__main__":
    main()
