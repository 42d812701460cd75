"""PEFT folders out and in, with real PEFT as the oracle."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from lamina.config import BaseSettings
from lamina.errors import StackError
from lamina.export.peft import CONFIG_FILE, WEIGHTS_FILE, maps_of, read_peft, write_peft
from lamina.lora.adapter import Adapter, Factors, combine
from lamina.lora.surgery import attach, detach, fresh_adapter
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Quiet

IDS = torch.tensor([[5, 9, 33, 121, 7, 88, 64, 2]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(input_ids=IDS).logits
    return out


def random_adapter(base: LoadedBase, rank: int, seed: int, only: str = "") -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(base.model, rank, seed)
    return {
        path: Factors(f.A, torch.randn(f.B.shape, generator=generator) * 0.2)
        for path, f in fresh.items()
        if only in path
    }


def stacked_logits(base: LoadedBase, adapters: list[Adapter], scales: list[float]) -> Tensor:
    attach(base.model, adapters, scales)
    result = logits(base.model)
    detach(base.model)
    return result


def peft_logits(base: LoadedBase, folder: Path) -> Tensor:
    """What real PEFT computes with a folder, any warning of which is an error."""
    model = PeftModel.from_pretrained(base.model, str(folder))
    result = logits(model)
    model.unload()
    return result


def export(base: LoadedBase, adapter: Adapter, folder: Path) -> dict[str, Any]:
    write_peft(adapter, folder, base="tiny/base", maps=maps_of(base.model))
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    return config


def test_peft_computes_what_the_stack_does(any_base: LoadedBase, tmp_path: Path) -> None:
    stack, scales = [random_adapter(any_base, rank, seed=rank) for rank in (2, 5, 3)], [1.0, 0.5, -1.0]
    before = logits(any_base.model)
    ours = stacked_logits(any_base, stack, scales)
    assert (ours - before).abs().max() > 1e-2
    config = export(any_base, combine(stack, scales), tmp_path)
    torch.testing.assert_close(peft_logits(any_base, tmp_path), ours, atol=1e-4, rtol=1e-4)
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["rank_pattern"]) == (10, 10, False, {})
    assert config["fan_in_fan_out"] == (any_base.pin.family == "gpt2")
    assert all("." not in name for name in config["target_modules"])  # as every other tool spells them
    assert config["base_model_name_or_path"] == "tiny/base"


def test_maps_of_unequal_ranks_and_a_part_of_the_maps(any_base: LoadedBase, tmp_path: Path) -> None:
    stack = [random_adapter(any_base, 4, seed=1, only=".1."), random_adapter(any_base, 3, seed=2, only="mlp")]
    ours = stacked_logits(any_base, stack, [1.0, 2.0])
    config = export(any_base, combine(stack, [1.0, 2.0]), tmp_path)
    assert config["rank_pattern"] == config["alpha_pattern"] != {}
    assert all("." in name for name in config["target_modules"])  # names alone would mean more maps
    torch.testing.assert_close(peft_logits(any_base, tmp_path), ours, atol=1e-4, rtol=1e-4)


def test_what_adds_nothing_is_not_exported(llama_base: LoadedBase, tmp_path: Path) -> None:
    for nothing in ({}, fresh_adapter(llama_base.model, 2, seed=0)):
        with pytest.raises(StackError, match="adds nothing to its base"):
            export(llama_base, nothing, tmp_path)
    assert list(tmp_path.iterdir()) == []


@given(
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    scales=st.lists(st.floats(-2, 2).filter(lambda scale: abs(scale) > 1e-3), min_size=4, max_size=4),
    parts=st.lists(st.sampled_from(["", "mlp", "q_proj", ".1."]), min_size=4, max_size=4),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_export_then_import_gives_the_same_deltas_and_logits(
    llama_base: LoadedBase,
    tmp_path_factory: pytest.TempPathFactory,
    ranks: list[int],
    scales: list[float],
    parts: list[str],
) -> None:
    folder = tmp_path_factory.mktemp("round")
    stack: list[Adapter] = [random_adapter(llama_base, rank, seed, parts[seed]) for seed, rank in enumerate(ranks)]
    whole = combine(stack, scales[: len(stack)])
    export(llama_base, whole, folder)
    back = read_peft(folder, maps_of(llama_base.model)).factors
    assert back.keys() == whole.keys()
    for path, factors in whole.items():
        assert back[path].A.equal(factors.A)
        assert back[path].B.equal(factors.B)
    ours = stacked_logits(llama_base, stack, scales[: len(stack)])
    torch.testing.assert_close(stacked_logits(llama_base, [back], [1.0]), ours, atol=1e-5, rtol=1e-4)


@given(
    rank=st.integers(1, 6),
    alpha=st.floats(0.1, 64),
    rslora=st.booleans(),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_import_folds_the_scale_and_export_keeps_the_delta(
    llama_base: LoadedBase,
    tmp_path_factory: pytest.TempPathFactory,
    rank: int,
    alpha: float,
    rslora: bool,
    kind: torch.dtype,
) -> None:
    folder, again, maps = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b"), maps_of(llama_base.model)
    raw = random_adapter(llama_base, rank, seed=rank)
    tensors = {f"base_model.model.{path}.lora_A.weight": pair.A.to(kind) for path, pair in raw.items()}
    tensors |= {f"base_model.model.{path}.lora_B.weight": pair.B.to(kind) for path, pair in raw.items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": rslora, "target_modules": "all-linear"}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    read = read_peft(folder, maps).factors
    scale = alpha / (math.sqrt(rank) if rslora else rank)
    for path, pair in raw.items():
        delta = scale * (pair.B.to(kind).double() @ pair.A.to(kind).double())
        torch.testing.assert_close(read[path].B.double() @ read[path].A.double(), delta, atol=1e-6, rtol=1e-5)
    write_peft(read, again, base="tiny/base", maps=maps)
    back = read_peft(again, maps).factors
    assert all(back[path].A.equal(pair.A) and back[path].B.equal(pair.B) for path, pair in read.items())


def foreign(base: LoadedBase, folder: Path, **config: Any) -> Tensor:
    """Write a folder with real PEFT, random factors and all, and return what PEFT computes with it."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]} | config
    model = get_peft_model(base.model, LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    result = logits(model.eval())
    model.save_pretrained(folder)
    model.unload()
    return result


PLAIN: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "^model.layers.1.mlp.down_proj": 3},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 1.5, "down_proj": 9},
        "use_rslora": True,
    },
    "one block": {"layers_to_transform": [1]},
    "one block, named": {"layers_to_transform": 0, "layers_pattern": "layers"},
    "regular expression": {"target_modules": r".*\.0\..*(q|v)_proj"},
    "all but": {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
    "dropout": {"lora_dropout": 0.3},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "eva": {"init_lora_weights": "eva"},
    "mica": {"init_lora_weights": "mica"},
}


@pytest.mark.filterwarnings("ignore:.*eva.*")
@pytest.mark.parametrize("config", PLAIN.values(), ids=PLAIN)
def test_an_adapter_from_elsewhere_computes_what_it_does_in_peft(
    llama_base: LoadedBase, tmp_path: Path, config: dict[str, Any]
) -> None:
    theirs = foreign(llama_base, tmp_path, **config)
    before = logits(llama_base.model)
    read = read_peft(tmp_path, maps_of(llama_base.model))
    ours = stacked_logits(llama_base, [read.factors], [1.0])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - before).abs().max() > 1e-3


def test_transposed_maps_are_read_like_any(base_folders: Any, any_base: LoadedBase, tmp_path: Path) -> None:
    names = ["c_attn", "c_proj"] if any_base.pin.family == "gpt2" else ["o_proj"]
    transposed = any_base.pin.family == "gpt2"
    theirs = foreign(any_base, tmp_path, target_modules=names, fan_in_fan_out=transposed)
    read = read_peft(tmp_path, maps_of(any_base.model))
    torch.testing.assert_close(stacked_logits(any_base, [read.factors], [1.0]), theirs, atol=1e-4, rtol=1e-4)


def change_config(folder: Path, **config: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj"

REFUSED_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "it is DoRA"),
    "pissa": ({"init_lora_weights": "pissa"}, "started by PiSSA"),
    "fast pissa": ({"init_lora_weights": "pissa_niter_4"}, "started by PiSSA"),
    "olora": ({"init_lora_weights": "olora"}, "started by OLoRA"),
    "corda": ({"init_lora_weights": "corda"}, "started by CorDA"),
    "loftq": ({"init_lora_weights": "loftq"}, "started by LoftQ"),
    "lora-ga": ({"init_lora_weights": "lora_ga"}, "started by LoRA-GA"),
    "another start": ({"init_lora_weights": "moonlight"}, "does not know .init_lora_weights = 'moonlight'."),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "replaces whole modules"),
    "tokens": ({"trainable_token_indices": [1]}, "replaces embeddings"),
    "biases": ({"bias": "all"}, "changes the base's biases"),
    "lora_bias": ({"lora_bias": True}, "adds biases"),
    "ia3": ({"peft_type": "IA3"}, "of the type IA3"),
    "loha": ({"peft_type": "LOHA"}, "of the type LOHA"),
    "vera": ({"peft_type": "VERA"}, "of the type VERA"),
    "adalora": ({"peft_type": "ADALORA"}, "of the type ADALORA"),
    "prompt": ({"peft_type": "PROMPT_TUNING"}, "of the type PROMPT_TUNING"),
    "no type": ({"peft_type": None}, "names no peft_type"),
    "experts": ({"target_parameters": ["experts.gate_up_proj"]}, "adapts bare parameters"),
    "repeated blocks": ({"layer_replication": [[0, 2], [1, 2]]}, "repeats blocks"),
    "aLoRA": ({"alora_invocation_tokens": [3]}, "it is aLoRA"),
    "unknown": ({"warp_factor": 9}, "sets warp_factor, which lamina does not know"),
    "rank 0": ({"r": 0}, "adapter_config.json: r: "),
    "rank as words": ({"r": "many"}, "adapter_config.json: r: "),
    "alpha NaN": ({"lora_alpha": math.nan}, "adapter_config.json: lora_alpha: "),
    "another rank": ({"r": 8}, "has rank 4, adapter_config.json says 8"),
    "broken pattern": ({"rank_pattern": {"(": 2}}, "not a regular expression: missing"),
    "pattern with flags": ({"alpha_pattern": {"(?i)x": 2}}, "not a regular expression: global flags"),
    "endless pattern": ({"target_modules": "x{99999999999}"}, "not a regular expression: the repetition"),
    "more targets": ({"target_modules": ["q_proj", "down_proj", "up_proj"]}, "no weights for .*up_proj"),
    "fewer targets": ({"target_modules": ["q_proj"]}, "weights for .*down_proj.*does not target"),
    "other blocks": ({"layers_to_transform": [1]}, "weights for .*layers.0.*does not target"),
}


@pytest.mark.parametrize(("config", "reason"), REFUSED_CONFIGS.values(), ids=REFUSED_CONFIGS)
def test_a_config_that_is_refused(llama_base: LoadedBase, tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    foreign(llama_base, tmp_path)
    change_config(tmp_path, **config)
    with pytest.raises(StackError, match=reason) as refused:
        read_peft(tmp_path, maps_of(llama_base.model))
    assert "\n" not in refused.value.message
    assert refused.value.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(LoraConfig(target_modules=["q_proj"]).to_dict())


@given(config=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
@settings(max_examples=150, deadline=None)
def test_no_config_is_answered_with_a_traceback(foreign_folder: tuple[Path, Any], config: dict[str, Any]) -> None:
    folder, maps = foreign_folder
    path = folder / CONFIG_FILE
    whole = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(whole) | config))
        with contextlib.suppress(StackError):
            read_peft(folder, maps)
    finally:
        path.write_text(whole)


@pytest.fixture(scope="module")
def foreign_folder(tmp_path_factory: pytest.TempPathFactory, base_folders: dict[str, Path]) -> tuple[Path, Any]:
    base = load_base(resolve_base(BaseSettings(model=str(base_folders["llama"])), Quiet()), dtype=torch.float32)
    folder = tmp_path_factory.mktemp("foreign")
    foreign(base, folder)
    return folder, maps_of(base.model)


def add(key: str, *shape: int) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({key: torch.ones(shape)})


def put(value: float) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors[f"{FIRST}.lora_B.weight"].view(-1)[3:4].fill_(value) and None


def add_pair(path: str, width: int, out: int) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.ones(4, width)
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.ones(out, 4)

    return change


REFUSED_WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "dora": (add(f"{FIRST}.lora_magnitude_vector", 32), "it is DoRA"),
    "embedding": (add("base_model.model.model.embed_tokens.lora_embedding_A", 4, 300), "adapts embeddings"),
    "whole head": (add("base_model.model.lm_head.weight", 300, 32), "replaces whole weights"),
    "bias": (add(f"{FIRST}.lora_B.bias", 32), "adds biases"),
    "unknown key": (add(f"{FIRST}.lora_C.weight", 4, 4), "lora_C.weight, which is none of a pair"),
    "no prefix": (add("model.layers.0.self_attn.q_proj.lora_A.weight", 4, 32), "which is none of a pair"),
    "head": (add_pair("lm_head", 32, 300), "adapts lm_head, which is no linear map inside the base"),
    "norm": (add_pair("model.norm", 32, 32), "adapts model.norm, which is no linear map"),
    "no such map": (add_pair("model.layers.7.self_attn.q_proj", 32, 32), "no linear map model.layers.7"),
    "other width": (
        add_pair("model.layers.0.self_attn.q_proj", 64, 64),
        "is 32 to 32 wide in this base, 64 to 64 in the adapter",
    ),
    "half a pair": (lambda tensors: tensors.pop(f"{FIRST}.lora_B.weight"), "no pair of factors"),
    "lost map": (
        lambda tensors: [tensors.pop(f"{FIRST}.lora_{factor}.weight") for factor in "AB"],
        "no weights for model.layers.0.self_attn.q_proj",
    ),
    "NaN": (put(math.nan), "q_proj.lora_B holds nan"),
    "infinity": (put(math.inf), "q_proj.lora_B holds inf"),
    "huge": (put(1e6), r"q_proj.lora_B holds 1.5e\+06"),
    "whole numbers": (
        lambda tensors: tensors.update({f"{FIRST}.lora_A.weight": torch.ones(4, 32, dtype=torch.int32)}),
        "is int32 .4, 32., expected a matrix of floats",
    ),
    "rank 0": (
        lambda tensors: tensors.update(
            {f"{FIRST}.lora_A.weight": torch.ones(0, 32), f"{FIRST}.lora_B.weight": torch.ones(32, 0)}
        ),
        "no pair of factors",
    ),
    "nothing": (lambda tensors: tensors.clear(), "holds no weights"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED_WEIGHTS.values(), ids=REFUSED_WEIGHTS)
def test_weights_that_are_refused(llama_base: LoadedBase, tmp_path: Path, change: Any, reason: str) -> None:
    foreign(llama_base, tmp_path)
    change_weights(tmp_path, change)
    with pytest.raises(StackError, match=reason) as refused:
        read_peft(tmp_path, maps_of(llama_base.model))
    assert "\n" not in refused.value.message


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


REFUSED_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / CONFIG_FILE).unlink(), "no adapter_config.json: not a PEFT adapter"),
    "no weights": (lambda folder: (folder / WEIGHTS_FILE).unlink(), "no adapter_model.safetensors"),
    "pickled": (
        lambda folder: (folder / WEIGHTS_FILE).rename(folder / "adapter_model.bin"),
        "its weights are pickled .adapter_model.bin.",
    ),
    "broken JSON": (lambda folder: cut(folder / CONFIG_FILE), "not valid JSON"),
    "a list": (lambda folder: (folder / CONFIG_FILE).write_text("[1]"), "expected a JSON object, found a list"),
    "cut weights": (lambda folder: cut(folder / WEIGHTS_FILE), "not a layer's weights"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED_FILES.values(), ids=REFUSED_FILES)
def test_files_that_are_refused(llama_base: LoadedBase, tmp_path: Path, change: Any, reason: str) -> None:
    foreign(llama_base, tmp_path)
    change(tmp_path)
    with pytest.raises(StackError, match=reason) as refused:
        read_peft(tmp_path, maps_of(llama_base.model))
    assert refused.value.hint


def test_every_variant_of_this_peft_is_decided() -> None:
    """A new setting of PEFT's must be looked at: until then an adapter that sets it is refused as unknown."""
    from lamina.export.variants import why_config_refused

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(target_modules=["q_proj"]).to_dict()
    assert why_config_refused(config) is None
    unknown = [key for key in config if "does not know" in (why_config_refused({"peft_type": "LORA", key: [9]}) or "")]
    assert unknown == ["init_lora_weights"]
