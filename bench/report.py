"""How every benchmark reports: one JSON line with date, machine and versions, kept in ``bench/results/``."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lamina.model.machine import describe_machine

RESULTS = Path(__file__).parent / "results"


def publish(name: str, figures: dict[str, Any]) -> None:
    """Print ``figures`` as one JSON line and keep it as ``bench/results/<name>.json``."""
    versions = {package: version(package) for package in ("lamina", "torch", "transformers", "xllamacpp")}
    record = {
        "bench": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": versions | {"python": platform.python_version()},
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(json.dumps(record))
