"""The second stage: a checked run gets its place on the cluster, and what only Ray can tell is filled in."""

from dataclasses import replace

from beear.cluster import capacity
from beear.cluster.capacity import Reservation
from beear.cluster.scoring import greedy_answers
from beear.config.resolve import check_parallel
from beear.data.load import LoadedData, fill_in
from beear.data.refusals import load_keywords
from beear.models.shape import model_shape
from beear.parallel.devices import Device
from beear.parallel.memory import MASTER
from beear.run.choose_backend import Settled, check_measuring, settle, settle_blind
from beear.run.progress import Progress
from beear.run.stages import Checked, Placed


def place(checked: Checked, progress: Progress, together: int = 1) -> Placed:
    """Reserve room, settle how weights are spread, and fill in the answers that the data leaves out.

    Ray is connected. ``together``: trainings of one worker that may run at a time.

    Raises:
        UserError: the cluster is too small, settings do not go with its devices, or memory would run out.
    """
    parallel = checked.parallel
    reservation = capacity.reservation_for(parallel)
    capacity.await_room(reservation, progress.say)
    capacity.check_resources(reservation)
    progress.note(reservation.sentence())
    check_parallel(parallel, checked.config.evaluate.engine, reservation.gpus_per_worker)
    # Several trainings share a node's memory as workers do.
    sharing = replace(reservation, workers=max(reservation.workers, together))
    device = capacity.device_of(parallel, sharing)
    # A CPU task that measures a large model is alone on its node.
    alone = device if device is None or device.gpu else capacity.device_of(parallel, replace(reservation, workers=1))
    settled = settled_on(checked, device, alone, reservation, progress, together)
    return Placed(
        checked,
        reservation,
        settled.spread if settled else None,
        _answered(checked, reservation),
        (*checked.choices, *(settled.choices if settled else ())),
    )


def settled_on(
    checked: Checked,
    device: Device | None,
    alone: Device | None,
    reservation: Reservation,
    progress: Progress,
    together: int = 1,
) -> Settled | None:
    """Return how weights are spread, None where nothing is trained, and refuse what no device can measure.

    Args:
        checked: the run.
        device: what a training worker computes on; None where its memory is not known.
        alone: what a task that measures computes on.
        reservation: what the run reserves.
        progress: hears of the choices and of what may not fit.
        together: trainings of one worker that may run at a time.

    Raises:
        UserError: memory would run out, whatever is chosen.
    """
    config, shape, settled = checked.config, model_shape(checked.facts.weights_folder, checked.config.adapter), None
    if checked.trains:
        if device and not device.gpu and together > 1:
            # On a CPU each training keeps the checkpoint as it came beside its own weights.
            device = device.beside(MASTER * shape.parameters)
        if device is None:
            settled = settle_blind(checked.parallel, gpu=reservation.gpus_per_worker > 0)
        else:
            work = checked.lengths.work(config, checked.method.needs(config.settings), device.gpu)
            settled = settle(checked.parallel, shape, work, device)
        for choice in settled.choices:
            progress.note(f"{choice['field']} = {choice['value']}: {choice['why']}")
        progress.warn(settled.warning)
    if alone is not None:
        progress.warn(check_measuring(config, shape, checked.lengths, alone))
    return settled


def _answered(checked: Checked, reservation: Reservation) -> LoadedData:
    """Return the data with the safe answers that files leave out: the checkpoint's own where it refuses."""
    config, data = checked.config, checked.data
    if not data.missing:
        return data
    return fill_in(
        data,
        lambda requests: greedy_answers(config, checked.facts, list(requests), reservation),
        config.data.refusal,
        load_keywords(config.evaluate.keywords),
    )
