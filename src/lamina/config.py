"""Settings: ``lamina.toml`` and the recipe of a training run, strictly validated.

Precedence: flag > ``lamina.toml`` > chosen from the data > default. ``Recipe`` is stored whole in the layer it made,
with the origin of every value that is not a default.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lamina.errors import UsageError

__all__ = [
    "CONFIG_NAME",
    "NO_ADDITIONS",
    "SCORERS",
    "SUITES_FOLDER",
    "BaseSettings",
    "CostSettings",
    "JudgeSettings",
    "Quantisation",
    "Recipe",
    "Scorer",
    "Settings",
    "Start",
    "SuiteSettings",
    "load_settings",
    "make_recipe",
]

CONFIG_NAME = "lamina.toml"
SUITES_FOLDER = "suites"
Scorer = Literal[
    "bleu",
    "call",
    "chrf",
    "choice",
    "contains",
    "exact",
    "instructions",
    "judged",
    "label",
    "likelihood",
    "number",
    "perplexity",
    "regex",
    "rouge",
]
SCORERS: tuple[str, ...] = get_args(Scorer)
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
Start = Literal["seeded", "apart", "orthogonal"]
M = TypeVar("M", bound=BaseModel)
# What fields meant, by doing nothing, to layers that are older than they are.
_BEFORE = {"replay_by": "rows", "anchors": 0.0, "kl": 0.0, "start": "seeded", "scale": "one"}
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
    patience: int = Field(
        3,
        ge=0,
        description="held-out losses in a row worse than the best that end a run, after its first pass; 0 for none",
    )
    replay: float = Field(1.0, ge=0, le=10, description="tokens of earlier layers mixed in, as a share of the new ones")
    replay_by: Literal["tokens", "rows"] = Field("tokens", description="what replay counts; rows as lamina once did")
    anchors: float = Field(0.0, ge=0, le=10, description="tokens of the bare base's own writing mixed in, as a share")
    kl: float = Field(0.5, ge=0, le=1, description="share of a replayed row's target that is what the parent predicts")
    start: Start = Field("apart", description="where A starts: seeded (as lamina once did), apart or orthogonal")
    scale: Literal["searched", "one"] = Field("searched", description="weight in the stack: by held-out rows, or 1")
    seed: int = Field(0, ge=0, description="seed of initialisation, shuffling and held-out choice")
    max_lost: float = Field(0.01, ge=0, le=1, description="refuse when more than this share of trained tokens is cut")

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Recipe:
        """Return the recipe that a layer records; what it says nothing of is as it was before there was a choice."""
        return cls.model_validate(_BEFORE | dict(record))


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

    file: Path = Field(description="items in any training format, or query/choices/gold or prompt/instructions rows")
    scorer: Scorer = Field("exact", description="how an answer is scored")
    guard: bool = Field(False, description="a skill that no new layer may make worse")
    margin: float | None = Field(
        None, gt=0, lt=1, description="gate: the loss to rule out on this guard, if not the one at the top level"
    )
    max_tokens: int = Field(64, ge=1, le=8192, description="longest generated answer in tokens")
    limit: int | None = Field(None, ge=1, description="score only the first so many items")
    metric: Literal["acc", "acc_norm"] = Field(
        "acc_norm", description="choice: by log-probability, or by that per character; the other is reported beside it"
    )
    pattern: str | None = Field(None, description="regex: what is taken from an answer, its first group if it has one")
    template: Literal["chat", "plain"] | None = Field(
        None, description="ask as a chat turn or as running text; choice and perplexity are plain unless set"
    )
    shots: int = Field(0, ge=0, le=64, description="solved examples in front of every item")
    shots_file: Path | None = Field(None, description="where the examples come from: its first rows")

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _check_partners(self) -> SuiteSettings:
        if (self.scorer == "regex") != (self.pattern is not None):
            raise ValueError("scorer 'regex' and a pattern belong together")
        if (self.shots > 0) != (self.shots_file is not None):
            raise ValueError("shots and shots_file belong together")
        if self.shots and self.scorer in ("instructions", "perplexity"):
            raise ValueError(f"the scorer '{self.scorer}' takes no shots")
        return self


class CostSettings(BaseModel):
    """What a second of this machine is taken to cost, for the estimates of ``lamina log``."""

    model_config = _STRICT

    watts: float = Field(45.0, ge=0, description="power drawn while training; a laptop's processor under load")
    price_kwh: float = Field(0.25, ge=0, description="price of a kilowatt-hour")
    price_hour: float = Field(0.0, ge=0, description="rent of the machine for an hour")
    currency: str = Field("$", max_length=3, description="sign or code put before prices")


class JudgeSettings(BaseModel):
    """Who judges answers: any OpenAI-compatible endpoint, a local one unless another is named."""

    model_config = _STRICT

    url: str = Field("http://127.0.0.1:11434/v1", description="the endpoint, up to and with /v1")
    model: str | None = Field(None, min_length=1, description="the judge's name there; no judge without it")
    key_env: str = Field("LAMINA_JUDGE_KEY", description="environment variable that holds the key, if one is needed")
    timeout_s: float = Field(120.0, gt=0, le=3600, description="seconds to wait for one reply")
    retries: int = Field(3, ge=0, le=20, description="further attempts when one fails, 1, 2, 4 … seconds apart")
    max_tokens: int = Field(1024, ge=1, le=32768, description="longest reply in tokens")
    parallel: int = Field(1, ge=1, le=64, description="questions in flight at once")


class Settings(BaseModel):
    """The whole of ``lamina.toml``."""

    model_config = _STRICT

    base: BaseSettings = BaseSettings()
    train: Recipe = Recipe()
    cost: CostSettings = CostSettings()
    judge: JudgeSettings = JudgeSettings()
    suites: dict[str, SuiteSettings] = Field(default_factory=dict)
    margin: float = Field(0.02, gt=0, lt=1, description="gate: the loss on a guard suite that must be ruled out")
    remedies: bool = Field(True, description="gate: try to mend a layer that it refuses, in order of cost")
    remedy_budget: float = Field(
        4.0, ge=0, description="gate: most that remedies may train, in tokens of the refused layer's own training"
    )
    licence: str | None = Field(None, min_length=1, description="licence of the layers trained here, as `apache-2.0`")


def load_settings(path: Path) -> Settings:
    """Return the settings in the TOML file ``path``, with the suites of ``suites/*.toml`` beside it.

    Relative paths are resolved against the folder of the file that they stand in. A suite file is one ``[suites.NAME]``
    table without its heading; the file's name is the suite's.

    Raises:
        UsageError: for broken TOML, for all wrong keys and values at once, each with the nearest known key, and for
            a suite that is there twice.
    """
    settings = _resolve_paths(_validate(Settings, _read_table(path), where=str(path)), path.parent)
    suites = dict(settings.suites)
    for file in sorted((path.parent / SUITES_FOLDER).glob("*.toml")):
        if file.stem in suites:
            raise UsageError(f"{file}: suite '{file.stem}' is also in {path.name}", hint="rename or delete one of them")
        suite = _validate(SuiteSettings, _read_table(file), where=str(file))
        suites[file.stem] = _resolve_suite(suite, file.parent)
    return settings.model_copy(update={"suites": suites})


def _read_table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", hint="run `lamina init` to write one") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}", hint="mend the line it names") from error


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
    if item["type"] == "value_error":
        problem = item["msg"].removeprefix("Value error, ")
        return f"{name}: {problem}" if name else problem
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
    suites = {name: _resolve_suite(suite, folder) for name, suite in settings.suites.items()}
    template = settings.base.template and folder / settings.base.template
    base = settings.base.model_copy(update={"template": template})
    return settings.model_copy(update={"suites": suites, "base": base})


def _resolve_suite(suite: SuiteSettings, folder: Path) -> SuiteSettings:
    shots = suite.shots_file and folder / suite.shots_file
    return suite.model_copy(update={"file": folder / suite.file, "shots_file": shots})
