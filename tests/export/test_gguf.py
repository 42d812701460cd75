"""GGUF files, loaded by llama.cpp and held against torch on every family that can be written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from laws import draw_layers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lamina.config import BaseSettings
from lamina.errors import StackError
from lamina.export import gguf as writing
from lamina.export.gguf import context_of, why_no_gguf, write_adapter_gguf, write_base_gguf
from lamina.export.gguf_family import FAMILIES, interleave_heads
from lamina.lora.adapter import combine
from lamina.lora.surgery import attach, detach
from lamina.model.base import Base, load_base, resolve_base
from lamina.records import Quiet
from lamina.serve.llama_look import look_ahead, opened

IDS = [5, 9, 33, 121, 7, 88, 64, 2, 250, 17, 31, 5]
Made = Callable[..., Base]


@pytest.fixture
def make_base(tmp_path: Path, base_folders: dict[str, Path], tokenizer: PreTrainedTokenizerFast) -> Made:
    """Return a function that writes a tiny base of a family with sharp attention, its configuration changed as told."""

    def make(family: str, **changes: object) -> Base:
        config = AutoConfig.from_pretrained(base_folders[family])
        for key, value in changes.items():
            setattr(config, key, value)
        torch.manual_seed(3)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(6.0) if parameter.dim() == 2 else parameter.add_(0.1 * torch.randn_like(parameter))
        folder = tmp_path / "tiny"  # llama.cpp looks for tokens of its own in whatever is called phi3
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return resolve_base(BaseSettings(model=str(folder)), Quiet())

    return make


CHANGES = {
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8},
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_base_and_a_stack_compute_what_torch_does(family: str, make_base: Made, tmp_path: Path) -> None:
    base = make_base(family, **CHANGES.get(family, {}))
    ids = IDS[: context_of(base) - 1]
    exact = load_base(base, dtype=torch.float32)
    layers = draw_layers(exact.model, 2, seed=1, size=0.5)
    whole = combine(layers.adapters, layers.scales)
    bare = _wanted(exact.model, ids)
    attach(exact.model, layers.adapters, layers.scales)
    stacked = _wanted(exact.model, ids)
    detach(exact.model)
    write_base_gguf(base, tmp_path / "base.gguf", Quiet())
    write_adapter_gguf(whole, base, tmp_path / "stack.gguf")
    files = {"whole": tmp_path / "stack.gguf"}
    for place, adapter in enumerate(layers.adapters):
        files[str(place)] = tmp_path / f"{place}.gguf"
        write_adapter_gguf(adapter, base, files[str(place)])
    apart = tuple((str(place), scale) for place, scale in enumerate(layers.scales))
    found = asyncio.run(_look(tmp_path / "base.gguf", files, ids, [(), (("whole", 1.0),), apart]))
    assert _furthest(bare, stacked) > 0.3
    assert _furthest(found[0], bare) < 0.03
    assert _furthest(found[1], stacked) < 0.03
    assert _furthest(found[2], found[1]) < 0.01


def test_without_the_reordering_the_check_would_tell(
    make_base: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base("llama")
    monkeypatch.setattr(writing, "interleave_heads", lambda rows, heads: rows)
    write_base_gguf(base, tmp_path / "base.gguf", Quiet())
    found = asyncio.run(_look(tmp_path / "base.gguf", {}, IDS, [()]))
    assert _furthest(found[0], _wanted(load_base(base, dtype=torch.float32).model, IDS)) > 0.03


def test_rows_are_interleaved_head_by_head() -> None:
    rows = torch.arange(8.0)[:, None]
    assert interleave_heads(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert interleave_heads(torch.arange(4.0), 1).tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gpt2", {}, "its family 'gpt2' is none of llama"),
        ("gemma2", {}, r"its attention is scaled by 1/sqrt\(256\), and llama.cpp scales by 1/sqrt\(8\)"),
        ("gemma2", {"query_pre_attn_scalar": 8, "final_logit_softcapping": None}, "its logits are not capped"),
        (
            "gemma3_text",
            {"query_pre_attn_scalar": 8, "layer_types": ["full_attention", "sliding_attention"]},
            "do not follow a regular pattern",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    family: str, changes: dict[str, object], reason: str, make_base: Made, tmp_path: Path
) -> None:
    base = make_base(family, **changes)
    with pytest.raises(StackError, match=reason):
        write_base_gguf(base, tmp_path / "base.gguf", Quiet())
    assert not (tmp_path / "base.gguf").exists()


def test_a_sliding_window_that_llama_cpp_lacks_ends_the_context(make_base: Made) -> None:
    assert context_of(make_base("mistral")) == 8
    assert context_of(make_base("llama")) == 256
    assert context_of(make_base("gemma2", query_pre_attn_scalar=8)) == 256


def test_a_base_held_quantised_is_refused(make_base: Made) -> None:
    folder = make_base("llama").folder
    base = resolve_base(BaseSettings(model=str(folder), quantise="int8"), Quiet())
    assert why_no_gguf(base) is not None


def test_metadata_and_kinds(make_base: Made, tmp_path: Path) -> None:
    base = make_base("llama")
    for weights, main in (("f16", "F16"), ("q4_0", "Q4_0"), ("q8_0", "Q8_0")):
        write_base_gguf(base, tmp_path / f"{weights}.gguf", Quiet(), weights=weights)  # type: ignore[arg-type]
        reader = gguf.GGUFReader(tmp_path / f"{weights}.gguf")
        kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        assert kinds["blk.0.ffn_up.weight"] == main
        assert kinds["blk.0.attn_norm.weight"] == "F32"
        assert kinds["token_embd.weight"] == ("F16" if main == "F16" else "Q8_0")
        assert "output.weight" not in kinds  # tied
    assert reader.fields["tokenizer.chat_template"].contents() == base.template
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 300
    assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == 1


def test_weights_too_large_for_float16_stay_bfloat16(make_base: Made, tmp_path: Path) -> None:
    base = make_base("llama")
    model = AutoModelForCausalLM.from_pretrained(base.folder)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    model.save_pretrained(base.folder)
    write_base_gguf(base, tmp_path / "base.gguf", Quiet())
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "base.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == "BF16"


def test_nothing_is_left_of_a_file_that_could_not_be_finished(
    make_base: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    base = make_base("llama")
    monkeypatch.setattr(writing, "quantize", fail)
    with pytest.raises(KeyboardInterrupt):
        write_base_gguf(base, tmp_path / "out" / "base.gguf", Quiet())
    assert list((tmp_path / "out").iterdir()) == []


@torch.no_grad()
def _wanted(model: PreTrainedModel, ids: list[int]) -> list[dict[int, float]]:
    rows = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
    return [dict(enumerate(row.tolist())) for row in rows]


async def _look(
    base: Path, files: dict[str, Path], ids: list[int], stacks: list[tuple[tuple[str, float], ...]]
) -> list[list[dict[int, float]]]:
    async with opened(base, files, context=64, threads=1) as worker:
        places = range(1, len(ids) + 1)
        return [await look_ahead(worker, layers, ids, places, most=300, stop_id=1) for layers in stacks]


def _furthest(found: list[dict[int, float]], wanted: list[dict[int, float]]) -> float:
    """Return the largest difference of a token's log-probability; an unlikely one's says nothing."""
    return max(
        abs(value - found[place][token])
        for place, row in enumerate(wanted)
        for token, value in row.items()
        if value > -12
    )
