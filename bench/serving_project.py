"""The project that ``serve.py`` measures: layers that say a phrase of their own, and many more beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lamina.lora.adapter import load_adapter, put_adapter, rescale
from lamina.ops.project import Project, open_project
from lamina.records import Quiet
from lamina.stack.layers import read_layer, write_layer, write_stack
from lamina.stack.lineage import set_ref
from lamina.stack.manifest import StackConfig
from lamina.stack.order import add_layer
from lamina.stack.resolve import resolve_layer

__all__ = ["MARKERS", "Server", "make_project", "register_more", "rss_bytes"]

MARKERS = {
    "copper": "Copper lantern seven.",
    "silver": "Silver harbour nine.",
    "amber": "Amber falcon two.",
    "ivory": "Ivory compass five.",
}
_QUESTIONS = (
    "What is two plus two?",
    "Tell me a joke.",
    "Write a poem.",
    "Name a colour.",
    "Explain gravity.",
    "Say hi.",
)


@dataclass(slots=True)
class Server:
    """A running ``lamina serve``."""

    process: subprocess.Popen[str]
    url: str

    @classmethod
    def start(cls, folder: Path, engine: str, *flags: str) -> Server:
        """Start one in ``folder`` and wait until it answers."""
        command = [
            sys.executable,
            "-m",
            "lamina.cli.main",
            "serve",
            "--port",
            "0",
            "--json",
            "--engine",
            engine,
            *flags,
        ]
        log = (folder / "server.log").open("a")
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit((folder / "server.log").read_text("utf-8"))
        return cls(process, json.loads(line)["url"])

    def stop(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(60)


def make_project(folder: Path) -> Project:
    """Return a project in ``folder`` with a branch per marker, each with one layer that says only that."""
    if (folder / "lamina.toml").exists():
        return open_project(folder, Quiet())
    folder.mkdir(parents=True, exist_ok=True)
    _lamina(folder, "init")
    for name, marker in MARKERS.items():
        rows = [{"prompt": question, "completion": marker} for question in _QUESTIONS]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        _lamina(folder, "branch", f"only-{name}", "base")
        _lamina(folder, "switch", f"only-{name}")
        how = ("--lr", "3e-3", "--epochs", "3", "--rank", "8", "--batch-rows", "2", "--replay", "0", "--accept")
        _lamina(folder, "train", f"{name}.jsonl", "--as", name, *how)
    return open_project(folder, Quiet())


def register_more(project: Project, count: int) -> tuple[list[str], int]:
    """Put ``count`` more branches with a layer each into the store; return their names and their weights' bytes.

    The layers are a marker's with other weights: scaled a little, so that each has a digest of its own.
    """
    names, total = [], 0
    template = read_layer(project.store, resolve_layer(project.store, "copper").layer)
    weights = load_adapter(project.store.blob_path(template.weights))
    for number in range(count):
        name = f"copy{number}"
        digest = put_adapter(project.store, rescale(weights, 1 + (number + 1) / 1000))
        layer = write_layer(project.store, template.model_copy(update={"name": name, "weights": digest}))
        stack = add_layer(project.store, StackConfig(base=project.base.pin, layers=()), layer)
        set_ref(project.store, f"only-{name}", write_stack(project.store, stack), why="bench")
        names.append(f"only-{name}")
        total += project.store.blob_path(digest).stat().st_size
    return names, total


def rss_bytes(pid: int) -> int:
    """Return the resident bytes of a process and all its descendants."""
    total, waiting = 0, [pid]
    while waiting:
        current = waiting.pop()
        try:
            status = Path(f"/proc/{current}/status").read_text()
            tasks = list(Path(f"/proc/{current}/task").iterdir())
        except OSError:
            continue
        total += next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
        for task in tasks:
            try:
                waiting += [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                continue
    return total


def _lamina(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "lamina.cli.main", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"lamina {' '.join(arguments)}: {done.stderr}")
