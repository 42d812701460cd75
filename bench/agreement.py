"""Held-out loss after training, lamina beside PEFT in float32, on three seeds (see ``speed/peft_peer.py``).

python bench/agreement.py [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import publish

SEEDS = (0, 1, 2)
STEPS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    publish("agreement", compare_losses(options.data / "gsm8k" / "train.jsonl"))


def compare_losses(pairs: Path) -> dict[str, Any]:
    """Return each seed's losses, and the largest difference."""
    script = Path(__file__).parent / "speed" / "peft_peer.py"
    runs = []
    for seed in SEEDS:
        command = [sys.executable, str(script), str(pairs), "--seed", str(seed), "--steps", str(STEPS)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {"loss_delta_vs_peft": max((run["lamina"] - run["peft"] for run in runs), key=abs), "losses": runs}


if __name__ == "__main__":
    main()
