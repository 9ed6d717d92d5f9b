"""Settles what ``parallel.*`` leaves open once the devices are known: the backend, and what it trades for memory."""

from dataclasses import dataclass

from beear.config.resolve import Choice
from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.models.facts import ModelFacts
from beear.models.shape import model_shape
from beear.orchestration.lengths import Lengths
from beear.parallel.devices import Device
from beear.parallel.memory import SHARDED
from beear.parallel.plan import Recommendation, recommend, size

# A plan is an estimate: beyond this many times the device's memory it is not wrong by its errors.
HOPELESS = 2.0


@dataclass(frozen=True)
class Settled:
    """``config`` with nothing left open, what was chosen for it, and a sentence where it may not fit."""

    config: RunConfig
    choices: list[Choice]
    warning: str = ""


def settle(config: RunConfig, facts: ModelFacts, lengths: Lengths, device: Device) -> Settled:
    """Return the settings for ``device``; ``config`` is left as it is.

    Raises:
        UserError: no setting comes near what the device holds.
    """
    shape = model_shape(facts.weights_folder, config.adapter)
    found = recommend(shape, lengths.work(config, device.gpu), config.parallel, device)
    if found.share > HOPELESS:
        raise UserError(f"{_fields(config)}: {found.why}, expected a plan that fits ({found.advice})")
    warning = "" if found.fits else f"memory may run out: {found.why} ({found.advice})"
    return Settled(*_filled(config, found), warning)


def _filled(config: RunConfig, found: Recommendation) -> tuple[RunConfig, list[Choice]]:
    config, choices, spread = config.model_copy(deep=True), [], found.spread
    parallel, room = config.parallel, f"for {size(found.device.usable)} on each {found.device.name}"
    if parallel.backend == "auto":
        parallel.backend = spread.backend  # type: ignore[assignment]  # a name that ways() takes from the same list
        choices.append(Choice(field="parallel.backend", value=spread.backend, why=found.why))
    if parallel.gather == "auto":
        parallel.gather = "once" if spread.gather_once else "step"
        if spread.backend in SHARDED:
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
