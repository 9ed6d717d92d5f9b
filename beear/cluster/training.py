"""The driver's side of training: one Ray Train run, its events, and what it left in storage."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray
import ray.data
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from beear.cluster.capacity import Reservation
from beear.cluster.checkpoint import EXPORT, read_history
from beear.cluster.events import Event, EventQueue, Relay, fault_in
from beear.cluster.run_in_thread import run_in_thread
from beear.cluster.temp_dirs import clear_scratch, scratch_name
from beear.cluster.train_storage import last_saved_epoch, mend
from beear.cluster.training_worker import WorkerSpec, train_worker
from beear.errors import Fault
from beear.records.report import EpochRecord
from beear.streams.datasets import datasets


def train(
    spec: WorkerSpec,
    reservation: Reservation,
    storage: Path,
    sink: Callable[[Event], None],
    *,
    max_failures: int,
    export: Path | None = None,
) -> list[EpochRecord]:
    """Run (or resume) training, copy the exported model to the folder ``export`` (if given) and return the epochs.

    Workers are started again ``max_failures`` times after one is lost.

    The Ray Train run is named by the identity, so the same command finds its own checkpoints in ``storage``.

    Raises:
        UserError: a row or a checkpoint was at fault, or memory ran out; the sentence comes from the worker.
        Diverged: the loss was not finite.
        TrainingFailedError: anything else, after retries.
    """
    events = EventQueue.remote()  # type: ignore[attr-defined]  # ray.remote hides its method from the checker
    spec = replace(spec, events=events, scratch=scratch_name(spec.identity, storage))
    if said := mend(storage / _run_name(spec)):
        sink({"kind": "note", "message": said})
    faults: list[Fault] = []

    def take(event: Event) -> None:
        if (fault := fault_in(event)) is not None:
            faults.append(fault)
        sink(event)

    trainer = _trainer(spec, reservation, storage, max_failures)
    failure: TrainingFailedError | None = None
    result = None
    with Relay(events, take):
        try:
            result = run_in_thread(trainer.fit)
        except TrainingFailedError as error:
            failure = error
    # Cleans this machine only; workers on other nodes clean theirs when they start.
    clear_scratch(spec.scratch)
    if faults:
        raise faults[0].error()
    if failure is not None:
        raise failure
    assert result is not None and result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        if export is not None:
            shutil.rmtree(export, ignore_errors=True)
            shutil.copytree(Path(folder) / EXPORT, export)
        return read_history(Path(folder))


def _run_name(spec: WorkerSpec) -> str:
    return f"beear-{spec.identity[:16]}"


def _trainer(spec: WorkerSpec, reservation: Reservation, storage: Path, max_failures: int) -> TorchTrainer:
    last_done = partial(last_saved_epoch, storage / _run_name(spec))
    options = ray.data.ExecutionOptions(preserve_order=True)
    return TorchTrainer(
        train_worker,
        # A reference: Ray's controller would unpickle the spec itself, and import all that trains for that.
        train_loop_config={"spec": ray.put(spec)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=reservation.workers,
            use_gpu=reservation.gpus_per_worker > 0,
            resources_per_worker=reservation.share,
        ),
        run_config=ray.train.RunConfig(
            name=_run_name(spec),
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
        datasets=dict(datasets(spec.stream, reservation.workers, last_done, spec.events)),
        dataset_config=ray.train.DataConfig(datasets_to_split=[], execution_options=options),
    )
