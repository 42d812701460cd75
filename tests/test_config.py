"""``lamina.toml``: strict, with the nearest known key, and flags that win over it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lamina.config import (
    BaseSettings,
    CostSettings,
    JudgeSettings,
    Recipe,
    Settings,
    SuiteSettings,
    load_settings,
    make_recipe,
)
from lamina.errors import UsageError


def settings(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "lamina.toml"
    path.write_text(text)
    return load_settings(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nrnk = 8", "unknown key 'train.rnk', did you mean 'rank'?"),
        ("[train]\nlearnig_rate = 1e-3", "unknown key 'train.learnig_rate', did you mean 'learning_rate'?"),
        ("[bse]\nmodel = 'x'", "unknown key 'bse', did you mean 'base'?"),
        ("[base]\nmodle = 'x'", "unknown key 'base.modle', did you mean 'model'?"),
        ("[suites.a]\nfile = 'a'\nscore = 'exact'", "unknown key 'suites.a.score', did you mean 'scorer'?"),
        ("[train]\nrank = 0", "train.rank: input should be greater than or equal to 1, got 0"),
        ("[train]\nrank = 'many'", "train.rank: input should be a valid integer"),
        ("[train]\nlearning_rate = inf", "train.learning_rate: input should be"),
        ("[suites.a]\nfile = 'a'\nscorer = 'xact'", "suites.a.scorer: input should be 'bleu', 'call'"),
        ("[suites.a]\n", "suites.a.file: field required"),
        ("[train]\ndora = true", "train.dora: DoRA is refused, since layers only add up exactly when each is a plain"),
        ("[train]\nuse_dora = true", "train.use_dora: DoRA is refused"),
        ("[train]\ninit = 'pissa'", "train.init: PiSSA is refused"),
        ("[train]\ninit_lora_weights = 'pissa_niter_16'", "train.init_lora_weights: PiSSA is refused"),
        ("[train]\ninit = 'zero'", "unknown key 'train.init'"),
        ("[base]\nquantise = 'int4'", "base.quantise: input should be 'none', 'int8' or 'nf4', got 'int4'"),
        ("[base]\ninit = 'pissa'", "unknown key 'base.init'"),
        ("[train]\npatience = -1", "train.patience: input should be greater than or equal to 0, got -1"),
        ("[train]\nb_rate = 0.0", "train.b_rate: input should be greater than 0, got 0.0"),
        ("[train\nrank = 8", "not valid TOML"),
        ("[suites.a]\nfile = 'a'\nscorer = 'regex'", "suites.a: scorer 'regex' and a pattern belong together"),
        ("[suites.a]\nfile = 'a'\nscorer = 'regex'\npattern = '('", "suites.a.pattern: not a regular expression"),
        ("[suites.a]\nfile = 'a'\nshots = 2", "suites.a: shots and shots_file belong together"),
    ],
)
def test_mistakes_name_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        settings(tmp_path, text)
    assert str(tmp_path / "lamina.toml") in caught.value.message
    assert caught.value.exit_code == 2


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        settings(tmp_path, "[train]\nrnk = 8\nepoch = 2\nwarmup = 3")
    assert all(name in caught.value.message for name in ("rnk", "epoch", "warmup"))


def test_a_missing_file_says_init(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(tmp_path / "lamina.toml")
    assert "lamina init" in caught.value.hint


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    found = settings(tmp_path, "[suites.a]\nfile = 'sub/a.jsonl'\n[base]\ntemplate = 't.jinja'")
    assert found.suites["a"].file == tmp_path / "sub/a.jsonl"
    assert found.base.template == tmp_path / "t.jinja"


def test_flag_beats_file_beats_default_and_origins_say_so(tmp_path: Path) -> None:
    found = settings(tmp_path, "[train]\nrank = 8\nepochs = 2.0")
    recipe, origins = make_recipe(found, {"rank": 4, "learning_rate": None})
    assert (recipe.rank, recipe.epochs, recipe.learning_rate) == (4, 2.0, Recipe().learning_rate)
    assert origins == {"rank": "flag", "epochs": "lamina.toml"}
    assert recipe.model_fields_set == set(origins)  # what is left to be chosen from the data


def test_a_flag_out_of_range_is_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="flags: clip"):
        make_recipe(Settings(), {"clip": -1.0})


@pytest.mark.parametrize("model", [BaseSettings, CostSettings, JudgeSettings, Recipe, SuiteSettings])
def test_every_key_is_documented(model: type) -> None:
    assert all(field.description for field in model.model_fields.values())
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text("utf-8")
    for name, field in model.model_fields.items():
        assert f"`{name}`" in page
        assert field.description in page


def test_suites_also_lie_in_files_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "suites"
    folder.mkdir()
    (folder / "maths.toml").write_text('file = "maths.jsonl"\nscorer = "number"\n')
    found = settings(tmp_path, "[suites.words]\nfile = 'words.jsonl'").suites
    assert found["maths"].file == folder / "maths.jsonl"
    assert found["words"].file == tmp_path / "words.jsonl"
    (folder / "words.toml").write_text('file = "words.jsonl"\n')
    with pytest.raises(UsageError, match=r"words.toml: suite 'words' is also in lamina.toml"):
        load_settings(tmp_path / "lamina.toml")
    (folder / "words.toml").write_text('fil = "words.jsonl"\n')
    with pytest.raises(UsageError, match=r"suite 'words' is also in"):
        load_settings(tmp_path / "lamina.toml")
    (folder / "words.toml").rename(folder / "other.toml")
    with pytest.raises(UsageError, match=r"other.toml: .*unknown key 'fil', did you mean 'file'\?"):
        load_settings(tmp_path / "lamina.toml")
