"""What runs on a Ray Train worker: build, resume if there is a checkpoint, fit, report, export.

Imported by workers by name, so nothing here lives in an entry script.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

import beear
from beear.engine.fit import EpochOutcome
from beear.engine.session import Session, Training
from beear.errors import UserError
from beear.models.export import export_model
from beear.parallel.choose import choose
from beear.report.schema import EpochRecord, InnerCurve
from beear.streams.batches import StreamBatches
from beear.streams.plan import StreamPlan

STATE, HISTORY, EXPORT = "state.pt", "history.json", "model"


@dataclass
class WorkerSpec:
    """All a worker needs, picklable; ``board`` takes events."""

    training: Training
    stream: StreamPlan
    identity: str
    board: Any = None


def train_worker(parts: dict[str, WorkerSpec]) -> None:
    """Train on this worker. A user's mistake or a broken loss travels to the driver as a value, once."""
    spec = parts["spec"]
    if ray.get(spec.board.failed.remote()):
        return
    try:
        _Worker(spec).run()
    except UserError as error:
        ray.get(spec.board.post.remote({"kind": "user_error", "message": str(error)}))
        raise
    except FloatingPointError as error:
        ray.get(spec.board.post.remote({"kind": "diverged", "message": str(error)}))
        raise


class _Worker:
    def __init__(self, spec: WorkerSpec) -> None:
        self.spec, self.training = spec, spec.training
        world = ray.train.get_context().get_world_size()
        self.backend = choose(self.training.config.parallel.backend, world, ray.train.torch.get_device())
        self.leads = self.backend.rank == 0
        self.session = Session(
            self.training,
            self.backend,
            lambda _plan, template, *place: StreamBatches(spec.stream, template.tokenizer, *place),
        )
        self.history: list[EpochRecord] = []

    def run(self) -> None:
        done, last = self._resume()
        if done == last:
            return
        self._post({"kind": "started", "resumed_after": done, "package": str(Path(beear.__file__).parent)})
        self.session.fit(self._after_epoch, done + 1, last, self._progress if self.leads else None)

    def _resume(self) -> tuple[int, int | None]:
        """Return the last epoch done and the one the run had come to end with, None where nothing is done."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return 0, None
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / STATE, map_location=self.backend.device, weights_only=True)
            self.history = read_history(Path(folder))
        self.backend.load_state_dict(state["backend"])
        self.session.method.state.values = dict(state["method"])
        return int(state["epoch"]), int(state["last"])

    def _after_epoch(self, outcome: EpochOutcome) -> None:
        record = epoch_record(outcome)
        self.history.append(record)
        metrics = {"epoch": outcome.epoch, **outcome.losses, **outcome.selection}
        # Every worker calls state_dict: a sharded backend gathers in it.
        state = {
            "backend": self.backend.state_dict(),
            "method": self.session.method.state.values,
            "epoch": outcome.epoch,
            "last": outcome.last,
        }
        if not self.leads:
            ray.train.report(metrics, checkpoint=None)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder) / STATE)
            write_history(Path(folder), self.history)
            if outcome.final:
                self._export(Path(folder) / EXPORT)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        self._post({"kind": "epoch", "record": record.model_dump(mode="json")})

    def _export(self, folder: Path) -> None:
        export_model(
            self.session.model,
            self.training.facts,
            folder,
            notes={"run": self.spec.identity},
            chat_template=self.training.config.model.chat_template,
        )

    def _progress(self, epoch: int, phase: str, step: int, losses: dict[str, float]) -> None:
        steps = self.training.config.method.outer_steps
        self._post({"kind": "progress", "epoch": epoch, "phase": phase, "step": step, "steps": steps, "losses": losses})

    def _post(self, event: dict[str, Any]) -> None:
        if self.leads:
            self.spec.board.post.remote(event)


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
        epoch=outcome.epoch, inner=curves, losses=outcome.losses, selection=outcome.selection, seconds=outcome.seconds
    )


def write_history(folder: Path, history: list[EpochRecord]) -> None:
    """Write the epochs so far beside a checkpoint's state."""
    (folder / HISTORY).write_text(json.dumps([record.model_dump(mode="json") for record in history]))


def read_history(folder: Path) -> list[EpochRecord]:
    """Read what :func:`write_history` wrote."""
    return [EpochRecord.model_validate(record) for record in json.loads((folder / HISTORY).read_text())]
