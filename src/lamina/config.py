"""Settings: ``lamina.toml`` and the recipe of a training run, strictly validated.

Precedence: flag > ``lamina.toml`` > chosen from the data > default. ``Recipe`` is stored whole in the layer it made,
with the origin of every value that is not a default.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lamina.errors import UsageError

__all__ = [
    "CONFIG_NAME",
    "NO_ADDITIONS",
    "SCORERS",
    "BaseSettings",
    "CostSettings",
    "Quantisation",
    "Recipe",
    "Settings",
    "SuiteSettings",
    "load_settings",
    "make_recipe",
]

CONFIG_NAME = "lamina.toml"
SCORERS = ("call", "choice", "contains", "exact", "likelihood", "number")
# Methods that rescale the base or start from a changed one.
NO_ADDITIONS = {
    "dora": "DoRA",
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "loftq": "LoftQ",
    "lora_ga": "LoRA-GA",
}
Quantisation = Literal["none", "int8", "nf4"]
M = TypeVar("M", bound=BaseModel)
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recipe(BaseModel):
    """The hyper-parameters of one training run."""

    model_config = _STRICT

    rank: int = Field(16, ge=1, le=1024, description="LoRA rank r of every adapted linear map")
    alpha: float = Field(32.0, gt=0, description="LoRA alpha: the layer's addition is scaled by alpha / r")
    rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead (Kalajdzievski 2023, arXiv:2312.03732)")
    learning_rate: float = Field(5e-4, gt=0, le=1, description="peak learning rate of AdamW")
    b_rate: float = Field(1.0, gt=0, le=1000, description="LoRA+: learning rate of B over A's (arXiv:2402.12354)")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay on the factors")
    epochs: float = Field(1.0, gt=0, le=1000, description="passes over the training rows; fractions are allowed")
    batch_rows: int = Field(8, ge=1, description="rows per optimiser step")
    max_length: int = Field(0, ge=0, description="longest row in tokens; 0 means the base's context length")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    final_rate: float = Field(0.1, ge=0, le=1, description="last learning rate, as a share of the peak")
    clip: float = Field(1.0, gt=0, description="largest gradient norm; larger gradients are scaled down to it")
    heldout: float = Field(0.05, ge=0, lt=1, description="share of the rows kept out to measure held-out loss")
    patience: int = Field(3, ge=0, description="stop after so many held-out losses without a new best; 0 means never")
    replay: float = Field(0.1, ge=0, le=10, description="rows of earlier layers mixed in, as a share of the new rows")
    seed: int = Field(0, ge=0, description="seed of initialisation, shuffling and held-out choice")
    max_lost: float = Field(0.01, ge=0, le=1, description="refuse when more than this share of trained tokens is cut")


class BaseSettings(BaseModel):
    """Which base the project stands on."""

    model_config = _STRICT

    model: str = Field("smollm2-135m", description="bundled name, folder, .gguf file or hub id")
    revision: str | None = Field(None, description="hub revision; recorded, the digest is what pins")
    digest: str | None = Field(None, description="content digest that the base must have; written by `lamina init`")
    template: Path | None = Field(None, description="a Jinja chat template for a base that ships without one")
    quantise: Quantisation = Field("none", description="how the frozen linear maps are held: none, int8 or nf4")


class SuiteSettings(BaseModel):
    """One suite of evaluation items."""

    model_config = _STRICT

    file: Path = Field(description="items in any training format, or query/choices/gold rows")
    scorer: Literal["call", "choice", "contains", "exact", "likelihood", "number"] = Field(
        "exact", description="how an answer is scored"
    )
    guard: bool = Field(False, description="a skill that no new layer may make worse")
    margin: float | None = Field(
        None, gt=0, lt=1, description="gate: the loss to rule out on this guard, if not the one at the top level"
    )
    max_tokens: int = Field(64, ge=1, le=8192, description="longest generated answer in tokens")
    limit: int | None = Field(None, ge=1, description="score only the first so many items")


class CostSettings(BaseModel):
    """What a second of this machine is taken to cost, for the estimates of ``lamina log``."""

    model_config = _STRICT

    watts: float = Field(45.0, ge=0, description="power drawn while training; a laptop's processor under load")
    price_kwh: float = Field(0.25, ge=0, description="price of a kilowatt-hour")
    price_hour: float = Field(0.0, ge=0, description="rent of the machine for an hour")
    currency: str = Field("$", max_length=3, description="sign or code put before prices")


class Settings(BaseModel):
    """The whole of ``lamina.toml``."""

    model_config = _STRICT

    base: BaseSettings = BaseSettings()
    train: Recipe = Recipe()
    cost: CostSettings = CostSettings()
    suites: dict[str, SuiteSettings] = Field(default_factory=dict)
    margin: float = Field(0.02, gt=0, lt=1, description="gate: the loss on a guard suite that must be ruled out")
    licence: str | None = Field(None, min_length=1, description="licence of the layers trained here, as `apache-2.0`")


def load_settings(path: Path) -> Settings:
    """Return the settings in the TOML file ``path``; relative paths inside it are resolved against its folder.

    Raises:
        UsageError: for broken TOML, and for all wrong keys and values at once, each with the nearest known key.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", hint="run `lamina init` to write one") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}", hint="mend the line it names") from error
    settings = _validate(Settings, table, where=str(path))
    return _resolve_paths(settings, path.parent)


def make_recipe(settings: Settings, flags: dict[str, Any]) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe after flags override ``[train]``, and the origin (``flag`` or ``lamina.toml``) of non-defaults.

    Raises:
        UsageError: if a flag's value is out of range.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    inherited = settings.train.model_dump(exclude_unset=True)
    recipe = _validate(Recipe, inherited | given, where="flags")
    return recipe, dict.fromkeys(inherited, CONFIG_NAME) | dict.fromkeys(given, "flag")


def _validate(model: type[M], table: dict[str, Any], *, where: str) -> M:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems = [_describe(model, dict(item)) for item in error.errors()]
        raise UsageError(f"{where}: " + "; ".join(problems), hint="all keys are in docs/settings.md") from error


def _describe(model: type[BaseModel], item: dict[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    name = ".".join(location)
    if item["type"] != "extra_forbidden":
        return f"{name}: {item['msg'][:1].lower()}{item['msg'][1:]}, got {item['input']!r}"
    if refused := _refused_method(location, item["input"]):
        return (
            f"{name}: {refused} is refused, since layers only add up exactly when each is a plain low-rank addition "
            "to an unchanged base"
        )
    nearest = difflib.get_close_matches(location[-1], _known_keys(model, location[:-1]), n=1, cutoff=0.4)
    return f"unknown key '{name}'" + (f", did you mean '{nearest[0]}'?" if nearest else "")


def _refused_method(location: list[str], value: object) -> str | None:
    if location[0] != "train":
        return None
    words = f"{location[-1]} {value}".lower()
    return next((title for method, title in NO_ADDITIONS.items() if method in words), None)


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        inner = SuiteSettings if field is None or part == "suites" else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return list(model.model_fields)


def _resolve_paths(settings: Settings, folder: Path) -> Settings:
    suites = {name: suite.model_copy(update={"file": folder / suite.file}) for name, suite in settings.suites.items()}
    template = settings.base.template and folder / settings.base.template
    base = settings.base.model_copy(update={"template": template})
    return settings.model_copy(update={"suites": suites, "base": base})
