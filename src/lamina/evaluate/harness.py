"""lm-evaluation-harness's tasks on a base with whatever layers are attached, from data on this machine.

Every task that the harness knows by name runs here, if its data set lies in the local cache of ``datasets``; a YAML
file in the project's ``suites/`` folder names a task of one's own, or points a known name at local files. The network
is switched off before the harness is loaded.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.data.render import Renderer
from lamina.errors import DataError, MachineError, UsageError
from lamina.evaluate.statistics.intervals import interval
from lamina.infer.generate import greedy_answers
from lamina.infer.score import rolling_windows, score_rows, score_rows_greedily
from lamina.model.base import LoadedBase
from lamina.records import Score, Tick, TokenRow
from lamina.refs import Digest

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

__all__ = ["HarnessTask", "load_tasks", "make_model", "run_task"]

_SEED = 1234  # the harness's own default for drawing shots
_PRIMARY = ("acc_norm", "acc", "exact_match", "prompt_level_strict_acc")
_MOST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """A task of the harness: its name, the harness's own object, and a digest of its configuration and data."""

    name: str
    task: Any
    digest: str

    @property
    def items(self) -> int:
        """How many items it has."""
        return len(self.task.eval_docs)


def load_tasks(name: str, folder: Path) -> list[HarnessTask]:
    """Return the tasks that ``name`` stands for: one, or the members of a group or tag.

    Args:
        name: as ``lm_eval --tasks`` takes it.
        folder: where YAML files of one's own lie; they win over the harness's own.

    Raises:
        MachineError: if lm-eval is not installed.
        UsageError: if no task has that name.
        DataError: if a task's data is not on this machine or does not fit it.
    """
    if find_spec("lm_eval") is None:
        raise MachineError("tasks of lm-evaluation-harness need lm-eval", hint="pip install 'lamina[eval]'")
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    paths = [str(folder)] if folder.is_dir() else None
    manager = TaskManager(include_path=paths, include_defaults=False)
    if name not in manager.all_tasks:
        manager = TaskManager(include_path=paths)  # reads some ten thousand files
    if name not in manager.all_tasks:
        raise UsageError(
            f"--task {name}: lm-evaluation-harness knows no such task", hint=f"put a task's YAML file in {folder}"
        )
    try:
        loaded = manager.load([name])["tasks"]
        return [_prepare(key, task) for key, task in loaded.items()]
    # What a task's own code, YAML and data set can raise has no common type.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"task '{name}'",
            f"its data is not on this machine or does not fit it: {reason}",
            hint=f"point it at local files with a YAML file in {folder} (docs/suites.md)",
        ) from error


def _prepare(name: str, task: Any) -> HarnessTask:
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_SEED)
    docs = list(task.eval_docs)
    if not docs:
        raise ValueError("it has no items")
    content = [version("lm_eval"), task.dump_config(), docs]
    return HarnessTask(name, task, str(Digest.of_bytes(json.dumps(content, default=str, sort_keys=True).encode())))


def run_task(base: LoadedBase, task: HarnessTask, tick: Tick) -> tuple[Score, int]:
    """Return the score of ``base`` on a task, and how many of its requests were cut to fit the context.

    The score's values are the task's first metric of acc_norm, acc, exact_match and the rest; all means that the
    harness gives are in ``figures``.

    Raises:
        DataError: if the task gives no number for an item, or none at all.
    """
    from lm_eval.evaluator import evaluate

    model = make_model(base)
    found: Any = evaluate(lm=model, task_dict={"tasks": {task.name: task.task}}, bootstrap_iters=0, log_samples=True)
    tick(task.items)
    results, samples = found["results"][task.name], found["samples"][task.name]
    figures = {key.split(",")[0]: float(value) for key, value in results.items() if _is_mean(key, value)}
    metric = _primary(figures, samples[0])
    if metric is None:
        raise DataError(f"task '{task.name}'", f"none of its metrics ({', '.join(figures)}) gives a number per item")
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    values = tuple(_number(sample[metric]) for sample in samples)
    scored = [value for value in values if not math.isnan(value)]
    mean, low, high = interval(scored)
    score = Score(
        suite=task.name,
        mean=mean,
        low=low,
        high=high,
        n=len(scored),
        items_digest=task.digest,
        values=values,
        unscored=len(values) - len(scored),
        figures=figures,
    )
    return score, model.cut


def _is_mean(key: str, value: Any) -> bool:
    return isinstance(value, int | float) and "stderr" not in key and "," in key


def _primary(figures: Mapping[str, float], sample: Mapping[str, Any]) -> str | None:
    ordered = [*(name for name in _PRIMARY if name in figures), *figures]
    return next((name for name in ordered if name in sample and not math.isnan(_number(sample[name]))), None)


def _number(value: Any) -> float:
    """Return an item's value in 0..1; of a log-probability with its count, the geometric mean; else NaN."""
    if isinstance(value, tuple | list) and len(value) == 2 and value[1]:
        return math.exp(min(0.0, float(value[0]) / float(value[1])))
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    return math.nan


def make_model(base: LoadedBase) -> Any:
    """Return ``base`` with its attached layers as the harness's ``LM``; its ``cut`` counts requests cut to fit."""
    from lm_eval.api.model import TemplateLM

    class LaminaLM(TemplateLM):  # type: ignore[misc]
        """The harness asks for subclasses of its own; the work is done by functions of this module."""

        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = base.tokenizer
            self.renderer = Renderer(base.tokenizer, base.template)
            self.cut = 0

        @property
        def eot_token_id(self) -> int:
            return int(base.tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            start = base.tokenizer.bos_token_id
            return self.eot_token_id if start is None else int(start)

        @property
        def tokenizer_name(self) -> str:
            return base.pin.name

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            start = [] if add_special_tokens is False else self.renderer.bos()
            ids = base.tokenizer.encode(string, add_special_tokens=False)
            return ids if ids[: len(start)] == start else [*start, *ids]

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            text: str = base.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                chat_template=base.template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
            return text

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
            return found

        def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            return _log_likelihoods(base, self, [(context, end) for _, context, end in requests])

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
            texts = [self.tok_encode(request.args[0], add_special_tokens=False) for request in requests]
            windows = [list(rolling_windows(ids, self.prefix_token_id, base.context)) for ids in texts]
            scores = iter(score_rows(base, [window for own in windows for window in own]))
            return [math.fsum(math.fsum(next(scores)) for _ in own) for own in windows]

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
            return _generate(base, self, [request.args for request in requests])

    return LaminaLM()


def _log_likelihoods(
    base: LoadedBase, model: TemplateLM, pairs: Sequence[tuple[list[int], list[int]]]
) -> list[tuple[float, bool]]:
    rows = []
    for context, end in pairs:
        # As the harness's own backends cut: from the left, the last token is only predicted.
        ids = tuple([*context, *end][-(base.context + 1) :])
        model.cut += len(ids) < len(context) + len(end)
        first = max(1, len(ids) - len(end))
        rows.append(TokenRow(ids, (False,) * first + (True,) * (len(ids) - first)))
    return [(math.fsum(scored.log_probs), scored.is_greedy) for scored in score_rows_greedily(base, rows)]


def _generate(base: LoadedBase, model: TemplateLM, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    answers: dict[int, str] = {}
    groups: dict[str, list[int]] = {}
    for place, (_, settings) in enumerate(requests):
        groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(place)
    for places in groups.values():
        settings = requests[places[0]][1]
        if settings.get("do_sample") and float(settings.get("temperature") or 0) > 0:
            raise UsageError("the task samples its answers; lamina scores greedy ones", hint="set do_sample to false")
        most = int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or _MOST_TOKENS)
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else list(stops)
        prompts = []
        for place in places:
            ids = model.tok_encode(requests[place][0])
            model.cut += len(ids) > base.context - most
            prompts.append(ids[-max(1, base.context - most) :])
        written = greedy_answers(base, prompts, max_tokens=most)
        for place, ids in zip(places, written, strict=True):
            text = base.tokenizer.decode(ids, skip_special_tokens=True)
            answers[place] = text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
    return [answers[place] for place in range(len(requests))]
