"""A stack on the bundled model as a PEFT folder: PEFT's logits are ours, and the folder comes back as a layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from lamina.config import BaseSettings
from lamina.export.peft import maps_of, write_peft
from lamina.lora.adapter import Factors, combine, load_adapter
from lamina.lora.surgery import attach, detach, fresh_adapter
from lamina.model.base import load_base, load_skeleton, resolve_base
from lamina.ops.project import open_project
from lamina.records import Quiet
from lamina.stack.layers import read_layer

pytestmark = pytest.mark.real


def test_peft_computes_our_logits_and_the_folder_comes_back(
    bundled: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve_base(BaseSettings(), Quiet())
    loaded = load_base(base, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    stack = [
        {
            path: Factors(pair.A, torch.randn(pair.B.shape, generator=generator) * 0.02)
            for path, pair in fresh_adapter(loaded.model, rank, seed=rank).items()
        }
        for rank in (8, 3)
    ]
    whole = combine(stack, [1.0, 0.5])
    ids = torch.tensor([loaded.tokenizer("The quick brown fox jumps over the lazy dog.").input_ids])

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = model(input_ids=ids).logits
        return out

    before = logits(loaded.model)
    attach(loaded.model, stack, [1.0, 0.5])
    ours = logits(loaded.model)
    detach(loaded.model)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_peft(whole, folder, base=base.pin.name, maps=maps_of(load_skeleton(base)))
    theirs = logits(PeftModel.from_pretrained(loaded.model, str(folder)))
    error = float((theirs - ours).abs().max() / ours.abs().max())
    assert error < 1e-4
    assert (ours - before).abs().max() > 0.1

    monkeypatch.chdir(tmp_path)
    assert cli("init").code == 0
    done = cli("import", "folder", "--as", "back")
    assert done.code == 0, done.err
    assert "warning" not in done.err
    project = open_project(tmp_path, Quiet())
    (entry,) = project.stack().layers
    back = load_adapter(project.store.blob_path(read_layer(project.store, entry.layer).weights))
    assert all(back[path].A.equal(pair.A) and back[path].B.equal(pair.B) for path, pair in whole.items())
