"""What runs on a Ray Train worker: build, resume if there is a checkpoint, fit, report, export.

A checkpoint is one folder that Ray Train puts together from what the workers report: each worker's share of the trained
weights and of the optimizer's state, and from the first one the epoch, the method's numbers, the history and, in the
end, the exported model. There is nothing else to keep: the learning rate is constant, and every random draw and every
batch follow from (seed, epoch, step, row).

Imported by workers by name, so nothing here lives in an entry script.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train import Checkpoint, CheckpointConsistencyMode, CheckpointUploadMode

import beear
from beear.cluster.checkpoint import EXPORT, WEIGHTS, read_history, read_state, write_history, write_state
from beear.cluster.events import fault_event
from beear.cluster.out_of_memory import training_ran_out
from beear.cluster.temp_dirs import clear_scratch, scratch
from beear.engine.fit import EpochOutcome
from beear.engine.session import Session, Training, backend_of
from beear.errors import Fault
from beear.models.export import export_model, form_kept
from beear.parallel.base import Backend
from beear.records.report import EpochRecord, InnerCurve
from beear.streams.batches import StreamBatches
from beear.streams.datasets import StreamSpec


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker needs, picklable.

    ``events`` is the queue to the driver. The names of temporary folders begin with ``scratch``.
    """

    training: Training
    stream: StreamSpec
    identity: str
    events: Any = None
    scratch: str = ""


def train_worker(parts: "dict[str, ray.ObjectRef[WorkerSpec]]") -> None:
    """Train on this worker. A user's mistake or a broken loss travels to the driver as a value, once."""
    spec = ray.get(parts["spec"])
    if ray.get(spec.events.failed.remote()):
        return
    # The workers that are there now write nothing before all of them have come this far.
    clear_scratch(spec.scratch)
    try:
        _train(spec)
    except Exception as error:
        if (fault := fault_of(error, spec.training)) is not None:
            # The end of this worker ends them all: what earlier epochs saved may still be on its way.
            _wait_for_uploads()
            ray.get(spec.events.post.remote(fault_event(fault)))
        raise


def fault_of(error: Exception, training: Training) -> Fault | None:
    """Return what the driver is told of an error that another try would meet again, None for any other."""
    if (fault := Fault.of(error)) is not None:
        return fault
    sentence = training_ran_out(error, training.spread, training.config.adapter.kind)
    return None if sentence is None else Fault("user", sentence)


def _train(spec: WorkerSpec) -> None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        _built(spec).run(0, None)
        return
    with checkpoint.as_directory() as path:
        folder = Path(path)
        state = read_state(folder)
        if state["epoch"] == state["last"]:
            return
        worker = _built(spec)
        worker.resume(folder, state["method"])
    worker.run(state["epoch"], state["last"])


def _built(spec: WorkerSpec) -> "_Worker":
    training = spec.training
    backend = backend_of(training, ray.train.torch.get_device())
    session = Session(
        training,
        backend,
        lambda _plan, template, *place: StreamBatches(spec.stream, template.tokenizer, *place),
    )
    return _Worker(spec, backend, session)


class _Worker:
    def __init__(self, spec: WorkerSpec, backend: Backend, session: Session) -> None:
        self.spec, self.training, self.backend, self.session = spec, spec.training, backend, session
        self.leads = backend.rank == 0
        self.history: list[EpochRecord] = []

    def resume(self, folder: Path, method: dict[str, float]) -> None:
        self.history = read_history(folder)
        self.backend.load(folder / WEIGHTS)
        self.session.defense.state.values = method

    def run(self, done: int, last: int | None) -> None:
        """Train after the epoch ``done``; ``last`` is the one that the run had come to end with, if it had begun."""
        group = ray.util.get_current_placement_group()
        self._post(
            {
                "kind": "started",
                "resumed_after": done,
                "history": [record.model_dump(mode="json") for record in self.history],
                "group": group.id.hex() if group else None,
                "package": str(Path(beear.__file__).parent),
            }
        )
        self.session.fit(self._after_epoch, done + 1, last, self._progress if self.leads else None)

    def _after_epoch(self, outcome: EpochOutcome) -> None:
        record = epoch_record(outcome)
        self.history.append(record)
        # One at a time: a kill then loses the epoch that is being stored at most, and the one that is trained, and no
        # two of them fill the disk.
        _wait_for_uploads()
        with scratch(self.spec.scratch, self.backend.rank) as folder:
            (folder / WEIGHTS).mkdir()
            self.backend.save(folder / WEIGHTS)
            if outcome.final:
                self._export(folder / EXPORT)
            if self.leads:
                write_state(folder, outcome.epoch, outcome.last, self.session.defense.state.values)
                write_history(folder, self.history)
            self._report({"epoch": outcome.epoch, **outcome.losses, **outcome.selection}, folder, outcome.final)
        self._post({"kind": "epoch", "record": record.model_dump(mode="json"), "final": outcome.final})

    def _report(self, metrics: dict[str, float], folder: Path, final: bool) -> None:
        """Hand ``folder`` to Ray Train, which stores it while the next epoch trains."""
        holds = self.leads or any((folder / WEIGHTS).iterdir())
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(folder) if holds else None,
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if final else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )
        if not holds:
            shutil.rmtree(folder)

    def _export(self, folder: Path) -> None:
        """Write the model from the first worker; every worker gives its share of the weights."""
        state = self.backend.full_state(form_kept(self.session.model, self.training.facts))
        if state is not None:
            export_model(
                self.session.model,
                self.training.facts,
                folder,
                notes={"run": self.spec.identity},
                state_dict=state,
                chat_template=self.training.config.model.chat_template,
            )

    def _progress(self, epoch: int, phase: str, step: int, losses: dict[str, float]) -> None:
        steps = self.training.config.method.outer_steps
        self._post({"kind": "progress", "epoch": epoch, "phase": phase, "step": step, "steps": steps, "losses": losses})

    def _post(self, event: dict[str, Any]) -> None:
        if self.leads:
            # The driver hears of it some time later.
            self.spec.events.post.remote({"time": round(time.time(), 3), **event})


def epoch_record(outcome: EpochOutcome) -> EpochRecord:
    """Turn an engine outcome into the report's plain record."""
    curves = [
        InnerCurve(
            epoch=outcome.epoch,
            placement=course.placement,
            steps=course.result.steps,
            loss_unwanted=course.result.loss_unwanted,
            loss_safe=course.result.loss_safe,
            crossing_step=course.result.crossing_step,
            delta_rms=course.size,
        )
        for course in outcome.inner
    ]
    return EpochRecord(
        epoch=outcome.epoch,
        inner=curves,
        losses=outcome.losses,
        selection=outcome.selection,
        seconds=outcome.seconds,
        cooled=outcome.cooled,
        notes=outcome.notes,
    )


def _wait_for_uploads() -> None:
    """Return once every checkpoint that was reported is in storage."""
    ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.COMMITTED)
