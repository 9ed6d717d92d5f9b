"""Settles what ``parallel.*`` leaves open once the devices are known: the backend, and what it trades for memory."""

from dataclasses import dataclass

from beear.config.resolve import Choice
from beear.config.schema import RunConfig
from beear.config.shape import ModelShape
from beear.errors import UserError
from beear.parallel.devices import Device
from beear.parallel.measuring import plan_measuring
from beear.parallel.plan import Recommendation, recommend, size
from beear.run.longest_rows import Lengths

# A plan is an estimate: beyond this many times the device's memory it is not wrong by its errors.
HOPELESS = 2.0


@dataclass(frozen=True)
class Settled:
    """``config`` with nothing left open, what was chosen for it, and a sentence where it may not fit."""

    config: RunConfig
    choices: list[Choice]
    warning: str = ""


def settle(config: RunConfig, shape: ModelShape, lengths: Lengths, device: Device) -> Settled:
    """Return the settings for ``device``; ``config`` is left as it is.

    Raises:
        UserError: no setting comes near what the device holds.
    """
    found = recommend(shape, lengths.work(config, device.gpu), config.parallel, device)
    if found.share > HOPELESS:
        raise UserError(f"{_fields(config)}: {found.why}, expected a plan that fits ({found.advice}); {_holds(device)}")
    warning = "" if found.fits else f"memory may run out: {found.why} ({found.advice})"
    return Settled(*_filled(config, found), warning)


def settle_blind(config: RunConfig) -> Settled:
    """Return the settings that need least of a device of unknown memory; ``config`` is left as it is."""
    config, choices = config.model_copy(deep=True), list[Choice]()
    parallel, why = config.parallel, "the workers' memory is not known, and this needs least"
    if parallel.backend == "auto":
        parallel.backend = "fsdp" if parallel.offload or parallel.workers > 1 else "single"
        choices.append(Choice(field="parallel.backend", value=parallel.backend, why=why))
        if parallel.gather == "auto" and parallel.backend == "fsdp":
            parallel.gather = "step"
            choices.append(Choice(field="parallel.gather", value=parallel.gather, why=why))
    return Settled(
        config, choices, "the workers' memory is not known, so nothing is planned for it; parallel.device_memory says it"
    )


def check_measuring(config: RunConfig, shape: ModelShape, lengths: Lengths, device: Device) -> str:
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


def _holds(device: Device) -> str:
    return f"parallel.device_memory says what a device holds where {size(device.memory)} is wrong"


def _filled(config: RunConfig, found: Recommendation) -> tuple[RunConfig, list[Choice]]:
    config, choices, spread = config.model_copy(deep=True), [], found.spread
    parallel, room = config.parallel, f"for {size(found.device.usable)} on each {found.device.name}"
    if parallel.backend == "auto":
        parallel.backend = spread.backend  # type: ignore[assignment]  # a name that ways() takes from the same list
        choices.append(Choice(field="parallel.backend", value=spread.backend, why=found.why))
    if parallel.gather == "auto":
        parallel.gather = "once" if spread.gather_once else "step"
        if spread.splits_weights:
            why = "all weights fit while nothing trains" if spread.gather_once else f"all weights are too much {room}"
            choices.append(Choice(field="parallel.gather", value=parallel.gather, why=why))
    if parallel.checkpoint_activations == "auto":
        parallel.checkpoint_activations = "on" if spread.checkpoint else "off"
        if spread.checkpoint:
            why = f"activations are too much {room}"
            choices.append(Choice(field="parallel.checkpoint_activations", value="on", why=why))
    if parallel.micro_batch is None and spread.micro_batch is not None:
        parallel.micro_batch = spread.micro_batch
        why = f"a worker's share of {config.method.batch_size} rows is too much {room}"
        choices.append(Choice(field="parallel.micro_batch", value=spread.micro_batch, why=why))
    return config, choices


def _fields(config: RunConfig) -> str:
    parallel = config.parallel
    return f"parallel.backend is {parallel.backend} and parallel.workers {parallel.workers}"
