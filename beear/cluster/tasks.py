"""Ray tasks whose faults come back as values: one sentence at the driver, no worker traceback."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from beear.cluster.capacity import Reservation
from beear.cluster.out_of_memory import scoring_ran_out
from beear.errors import Fault

Task = tuple[Callable[..., Any], tuple[Any, ...]]
# A fault, or what a function returned.
Outcome = tuple[Fault | None, Any]
RETRIES = 2


def run_tasks(tasks: Sequence[Task], reservation: Reservation) -> list[Any]:
    """Run functions importable by name, with a training worker's share of the cluster each; return their results.

    A task whose worker is killed runs again.

    Raises:
        UserError: what a task raised.
    """
    return results_of(start_tasks(tasks, reservation))


def start_tasks(tasks: Sequence[Task], reservation: Reservation) -> list[Any]:
    """Start tasks as :func:`run_tasks` does, without waiting; :func:`results_of` waits."""
    # A process that stays for the next task keeps the GPU memory that torch has cached. Ray ends such a process by itself only
    # where the function was declared with GPUs.
    once = {"max_calls": 1} if reservation.gpus_per_worker else {}
    options: dict[str, Any] = {"max_retries": RETRIES, **share_of(reservation), **once}
    work: Any = ray.remote(**options)(guarded)
    return [work.remote(function, arguments) for function, arguments in tasks]


def results_of(started: Sequence[Any]) -> list[Any]:
    """Wait for tasks and return their results.

    Raises:
        UserError: what a task raised.
    """
    return values_of(ray.get(list(started)))


def share_of(reservation: Reservation) -> dict[str, Any]:
    """Return a training worker's share of the cluster, as Ray's options name it."""
    gpus = {"num_gpus": reservation.gpus_per_worker} if reservation.gpus_per_worker else {}
    return {"num_cpus": reservation.cpus_per_worker, **gpus}


def values_of(outcomes: Sequence[Outcome]) -> list[Any]:
    """Return what the functions returned.

    Raises:
        UserError: one of them met a fault.
    """
    for fault, _ in outcomes:
        if fault is not None:
            raise fault.error()
    return [value for _, value in outcomes]


def guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    """Return (None, the function's value), or (its fault, None)."""
    try:
        return None, function(*arguments)
    except Exception as error:
        fault = Fault.of(error)
        if fault is None and (sentence := scoring_ran_out(error)):
            fault = Fault("user", sentence)
        if fault is None:
            raise
        return fault, None
