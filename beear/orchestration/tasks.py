"""Ray tasks whose users' mistakes come back as values: one sentence at the driver, no worker traceback."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from beear.errors import UserError
from beear.orchestration.cluster import Plan

Task = tuple[Callable[..., Any], tuple[Any, ...]]
RETRIES = 2


def run_tasks(tasks: Sequence[Task], plan: Plan) -> list[Any]:
    """Run functions importable by name, with a training worker's share of the cluster each; return their results.

    A task whose worker is killed runs again.

    Raises:
        UserError: what a task raised.
    """
    options: dict[str, Any] = {"num_cpus": plan.cpus_per_worker, "max_retries": RETRIES}
    if plan.gpus_per_worker:
        options["num_gpus"] = plan.gpus_per_worker
    results = ray.get([_guarded.options(**options).remote(function, arguments) for function, arguments in tasks])
    for mistake, _ in results:
        if mistake is not None:
            raise UserError(mistake)
    return [value for _, value in results]


@ray.remote
def _guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str | None, Any]:
    try:
        return None, function(*arguments)
    except UserError as error:
        return str(error), None
