"""Which PEFT adapters are a plain low-rank addition to an unchanged base, and why the others are not.

Only such an addition can be stacked exactly. Everything else is refused with its reason and never approximated, and so
is a setting that is not known here: it may change what the adapter computes.

Source: PEFT 0.21, tuners/lora/config.py, layer.py (what each start does to the base) and variants.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lamina.config import NO_ADDITIONS

__all__ = ["why_config_refused", "why_key_refused"]

# What says nothing about the result, or is read where the factors are made.
_READ = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
}
_REFUSED = {
    "use_dora": "it is DoRA, which rescales the base's weights",
    "modules_to_save": "it replaces whole modules of the base (modules_to_save)",
    "trainable_token_indices": "it replaces embeddings of the base (trainable_token_indices)",
    "target_parameters": "it adapts bare parameters (target_parameters), as of experts, and not linear maps",
    "layer_replication": "it repeats blocks of the base (layer_replication)",
    "lora_bias": "it adds biases (lora_bias), which a low-rank addition cannot hold",
    "loftq_config": "it was started by LoftQ, on a base whose weights that start had changed",
    "corda_config": "it was started by CorDA, on a base whose weights that start had changed",
    "lora_ga_config": "it was started by LoRA-GA, on a base whose weights that start had changed",
    "use_qalora": "it is QA-LoRA, which pools the inputs",
    "kasa_config": "it is KaSA, which changes the base's weights",
    "arrow_config": "it is Arrow, which routes tokens between adapters",
    "use_bdlora": "it is BD-LoRA, whose factors are block-diagonal and stored otherwise",
    "alora_invocation_tokens": "it is aLoRA, which acts only after its invocation tokens",
    "monteclora_config": "it is MonteCLoRA, whose factors are random",
    "velora_config": "it is VeLoRA, which keeps more than factors",
    "megatron_config": "it is made for Megatron's parallel linear maps",
}
# Starts that leave the base as it was: what was trained is the whole addition.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")
_OTHER_KEYS = {
    "lora_magnitude_vector": "it is DoRA, which rescales the base's weights",
    "lora_embedding_": "it adapts embeddings",
    "lora_B.bias": "it adds biases (lora_bias), which a low-rank addition cannot hold",
    "modules_to_save": "it replaces whole modules of the base (modules_to_save)",
    "trainable_tokens": "it replaces embeddings of the base (trainable_token_indices)",
    "lora_diag": "it is KaSA, which changes the base's weights",
    "lora_E": "it is AdaLoRA, which keeps singular values beside its factors",
}


def why_config_refused(config: Mapping[str, Any]) -> str | None:
    """Return why the adapter that ``config`` (adapter_config.json) describes cannot be stacked; None if it can."""
    kind = config.get("peft_type")
    if kind != "LORA":
        return f"it is of the type {kind}, and only LORA is a low-rank addition" if kind else "it names no peft_type"
    for key, reason in _REFUSED.items():
        if config.get(key):
            return reason
    if (bias := config.get("bias", "none")) != "none":
        return f"it changes the base's biases (bias = {bias!r})"
    return _why_start_refused(config.get("init_lora_weights", True)) or _why_unknown(config)


def why_key_refused(key: str) -> str:
    """Return why a key of the weights, which is not one of a pair of factors, cannot be stacked."""
    for part, reason in _OTHER_KEYS.items():
        if part in key:
            return reason
    if key.endswith((".base_layer.weight", "embed_tokens.weight", "lm_head.weight")):
        return f"it replaces whole weights of the base ({key})"
    return f"its weights hold {key}, which is none of a pair of LoRA factors"


def _why_start_refused(start: object) -> str | None:
    if isinstance(start, bool) or start is None or start in _PLAIN_STARTS:
        return None
    words = str(start).lower()
    for method, title in NO_ADDITIONS.items():
        if words.startswith(method):
            return f"it was started by {title}, on a base whose weights that start had changed"
    return f"it was started in a way that lamina does not know (init_lora_weights = {start!r})"


def _why_unknown(config: Mapping[str, Any]) -> str | None:
    unknown = _set_keys(config, known=_READ | set(_REFUSED))
    return f"its config sets {', '.join(unknown)}, which lamina does not know" if unknown else None


def _set_keys(config: Mapping[str, Any], *, known: Iterable[str]) -> list[str]:
    return sorted(key for key, value in config.items() if value and key not in known)
