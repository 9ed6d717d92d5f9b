"""General ability by lm-evaluation-harness tasks: an optional extra (``harness``), imported only when tasks are asked for.

Tasks come from a local folder of task files, or the harness downloads them.
"""

import os
from collections.abc import Mapping
from typing import Any

from beear.config.schema import EvaluateConfig
from beear.errors import UserError, nearest
from beear.evaluation.subject import Subject


def run_tasks(subject: Subject, config: EvaluateConfig, limit: int | None = None) -> dict[str, float]:
    """Return ``{"task/metric": value}`` for the tasks in ``config.tasks``; an empty dict where none are asked for.

    Standard errors stand beside their metrics as ``task/metric_stderr``. ``limit`` is the most rows per task.

    Raises:
        UserError: the extra is not installed, the tasks' folder is missing, or a task is not known.
    """
    if not config.tasks:
        return {}
    evaluator, manager_class, model_class = _harness()
    if config.tasks_path is not None and not os.path.isdir(config.tasks_path):
        raise UserError(f'evaluate.tasks_path "{config.tasks_path}" is no folder; expected one with task files.')
    names = [name.strip() for name in config.tasks.split(",") if name.strip()]
    manager = _manager(manager_class, names, config.tasks_path)
    model = model_class(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=config.batch_size, backend="causal")
    with subject.measuring():
        found = evaluator.simple_evaluate(model=model, tasks=names, task_manager=manager, limit=limit)
    return numbers(found["results"])


def _manager(manager_class: Any, names: list[str], folder: str | None) -> Any:
    """Return a task manager that knows ``names``: the local folder's if they are all there, else the harness's too."""
    known: list[str] = []
    # Reading the harness's own thousands of task files takes many seconds: not before it is needed.
    for with_own in ([False] if folder else []) + [True]:
        manager = manager_class(include_path=folder, include_defaults=with_own)
        known = list(manager.all_tasks)
        if set(names) <= set(known):
            return manager
    unknown = next(name for name in names if name not in known)
    raise UserError(f'evaluate.tasks: unknown task "{unknown}"{nearest(unknown, known)}.')


def numbers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the harness's ``{task: {"metric,filter": value}}`` flat; the filter ``none`` is left out of the name."""
    flat: dict[str, float] = {}
    for task, metrics in results.items():
        for key, value in metrics.items():
            metric, _, chosen = key.partition(",")
            if isinstance(value, int | float) and not isinstance(value, bool) and _:
                flat[f"{task}/{metric}" + (f",{chosen}" if chosen not in ("", "none") else "")] = float(value)
    return flat


def _harness() -> tuple[Any, Any, Any]:
    try:
        from lm_eval import evaluator
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            "evaluate.tasks needs lm-evaluation-harness; expected the package lm-eval (this project's extra harness)."
        ) from error
    return evaluator, TaskManager, HFLM
