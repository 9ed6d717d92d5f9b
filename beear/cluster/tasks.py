"""Ray tasks whose users' mistakes come back as values: one sentence at the driver, no worker traceback."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from beear.cluster.connection import Plan
from beear.cluster.out_of_memory import scoring_ran_out
from beear.errors import UserError

Task = tuple[Callable[..., Any], tuple[Any, ...]]
RETRIES = 2


def run_tasks(tasks: Sequence[Task], plan: Plan) -> list[Any]:
    """Run functions importable by name, with a training worker's share of the cluster each; return their results.

    A task whose worker is killed runs again.

    Raises:
        UserError: what a task raised.
    """
    return results_of(start_tasks(tasks, plan))


def start_tasks(tasks: Sequence[Task], plan: Plan) -> list[Any]:
    """Start what :func:`run_tasks` runs, for :func:`results_of` to wait for."""
    # On a GPU a process that stayed for the next task would keep the memory that its library holds for later. Ray itself
    # ends such a process only where the function was declared with GPUs.
    once = {"max_calls": 1} if plan.gpus_per_worker else {}
    options: dict[str, Any] = {"max_retries": RETRIES, **share_of(plan), **once}
    work: Any = ray.remote(**options)(guarded)
    return [work.remote(function, arguments) for function, arguments in tasks]


def results_of(started: Sequence[Any]) -> list[Any]:
    """Wait for tasks and return their results.

    Raises:
        UserError: what a task raised.
    """
    return values_of(ray.get(list(started)))


def share_of(plan: Plan) -> dict[str, Any]:
    """Return a training worker's share of the cluster, as Ray's options name it."""
    gpus = {"num_gpus": plan.gpus_per_worker} if plan.gpus_per_worker else {}
    return {"num_cpus": plan.cpus_per_worker, **gpus}


def values_of(outcomes: Sequence[tuple[str | None, Any]]) -> list[Any]:
    """Return the values of outcomes (mistake, value).

    Raises:
        UserError: one of them is a mistake.
    """
    for mistake, _ in outcomes:
        if mistake is not None:
            raise UserError(mistake)
    return [value for _, value in outcomes]


def guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str | None, Any]:
    """Return (None, the function's value), or (its user's mistake, None)."""
    try:
        return None, function(*arguments)
    except UserError as error:
        return str(error), None
    except (MemoryError, RuntimeError) as error:
        if (sentence := scoring_ran_out(error)) is None:
            raise
        return sentence, None
