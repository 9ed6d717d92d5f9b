"""Settles what ``parallel.*`` leaves open once the devices are known: the backend, and what it trades for memory."""

from dataclasses import dataclass
from typing import Any, Literal

from beear.config.resolve import Choice, ResolvedConfig
from beear.config.schema import ParallelConfig
from beear.config.shape import ModelShape
from beear.errors import UserError
from beear.parallel.devices import Device
from beear.parallel.measuring import plan_measuring
from beear.parallel.memory import Work
from beear.parallel.plan import Recommendation, recommend, size
from beear.parallel.spread import Spread
from beear.run.longest_rows import Lengths

# A plan is an estimate. Beyond this many times the device's memory its errors cannot make it right.
HOPELESS = 2.0


@dataclass(frozen=True)
class Settled:
    """How weights are spread, what was chosen for that, and a sentence where it may not fit."""

    spread: Spread
    choices: list[Choice]
    warning: str = ""


def settle(asked: ParallelConfig, shape: ModelShape, work: Work, device: Device) -> Settled:
    """Return how weights are spread over devices like ``device``.

    Raises:
        UserError: no setting comes near what the device holds.
    """
    found = recommend(shape, work, asked, device)
    if found.share > HOPELESS:
        fields = f"parallel.backend is {asked.backend} and parallel.workers {asked.workers}"
        raise UserError(f"{fields}: {found.why}, expected a plan that fits ({found.advice}); {_holds(device)}")
    warning = "" if found.fits else f"memory may run out: {found.why} ({found.advice})"
    return Settled(found.spread, _choices(asked, work.rows, found), warning)


def settle_blind(asked: ParallelConfig, gpu: bool) -> Settled:
    """Return what needs least of a device of unknown memory."""
    choices, why = list[Choice](), "the workers' memory is not known, and this needs least"
    backend: str = asked.backend
    gather: Literal["once", "step"] = "step" if asked.gather == "step" else "once"
    if backend == "auto":
        backend = "fsdp" if asked.offload or asked.workers > 1 else "single"
        choices.append(Choice(field="parallel.backend", value=backend, why=why))
        if asked.gather == "auto" and backend == "fsdp":
            gather = "step"
            choices.append(Choice(field="parallel.gather", value="step", why=why))
    spread = Spread(
        backend,
        asked.workers,
        asked.zero_stage,
        asked.offload,
        gather,
        asked.micro_batch,
        asked.checkpoint_activations == "on",
        gpu,
    )
    return Settled(
        spread, choices, "the workers' memory is not known, so nothing is planned for it; parallel.device_memory says it"
    )


def check_measuring(config: ResolvedConfig, shape: ModelShape, lengths: Lengths, device: Device) -> str:
    """Make sure that one device holds the checkpoint while it is measured; return a sentence where it may not.

    Raises:
        UserError: the weights and the smallest batch are more than there is.
    """
    plan = plan_measuring(shape, lengths.measuring(config, device.gpu), device)
    if plan.hopeless:
        shared = " (vllm takes the rest and does not shard here)" if plan.beside else ""
        other = ", or parallel.gpus_per_worker 0 to measure and train on CPUs" if device.gpu else ""
        raise UserError(
            f"model.path: measuring needs {size(plan.weights + plan.least)} on one device, {size(plan.weights)} of it weights, "
            f"and each {device.name} has {size(plan.room)} for it{shared}; expected devices that hold the model, since "
            f"measuring does not spread it as training does{other}; {_holds(device)}"
        )
    if plan.fits:
        return ""
    part, most = plan.most
    field = "evaluate.resistance.enabled false" if part == "fresh attacks" else "a smaller evaluate.batch_size"
    return (
        f"memory may run out in measuring: {size(plan.weights)} of weights and {size(most)} for {part}, "
        f"of {size(plan.room)} on each {device.name}; {field} needs less"
    )


def settled_values(spread: Spread) -> dict[str, Any]:
    """Return the fields of ``parallel`` that were open, as the configuration names them."""
    return {
        "backend": spread.backend,
        "gather": spread.gather,
        "checkpoint_activations": "on" if spread.checkpoint_activations else "off",
        "micro_batch": spread.micro_batch,
    }


def _holds(device: Device) -> str:
    return f"parallel.device_memory says what a device holds where {size(device.memory)} is wrong"


def _choices(asked: ParallelConfig, rows: int, found: Recommendation) -> list[Choice]:
    """Return what was chosen for the fields that were open, and why."""
    spread, room, choices = found.spread, f"for {size(found.device.usable)} on each {found.device.name}", list[Choice]()
    if asked.backend == "auto":
        choices.append(Choice(field="parallel.backend", value=spread.backend, why=found.why))
    if asked.gather == "auto" and spread.splits_weights:
        why = "all weights fit while nothing trains" if spread.gather == "once" else f"all weights are too much {room}"
        choices.append(Choice(field="parallel.gather", value=spread.gather, why=why))
    if asked.checkpoint_activations == "auto" and spread.checkpoint_activations:
        choices.append(Choice(field="parallel.checkpoint_activations", value="on", why=f"activations are too much {room}"))
    if asked.micro_batch is None and spread.micro_batch is not None:
        why = f"a worker's share of {rows} rows is too much {room}"
        choices.append(Choice(field="parallel.micro_batch", value=spread.micro_batch, why=why))
    return choices
