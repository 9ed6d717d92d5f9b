"""A trial that is a Ray Train run of its own, like the main command's: for several workers, or for spread weights.

The run keeps its checkpoints under the trial's name, so that a restarted trial finds them.
"""

import queue
import threading
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from beear.cluster.checkpoint import read_history, write_history
from beear.cluster.events import Event
from beear.cluster.training import train
from beear.records.report import EpochRecord
from beear.search.shared import Shared

# Seconds to wait for a run to report its workers, and then to end.
PATIENCE_SECONDS = 30.0


class RayTrainTraining:
    """A trial's training, one epoch at a time. The run may be one epoch ahead of what was asked for."""

    def __init__(self, shared: Shared, settings: dict[str, Any], trial: str) -> None:
        """Prepare; the run starts when the first epoch is asked for."""
        self._spec, self._reservation = shared.spec(settings), shared.placed.reservation
        self._storage = shared.storage(trial)
        self._known: dict[int, EpochRecord] = {}
        self._seen: queue.Queue[tuple[int, bool] | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._placed = threading.Event()
        self._group: str | None = None
        self._trained = False

    @property
    def history(self) -> list[EpochRecord]:
        """The epochs so far, in order. Tune and the run may each know an epoch that the other has missed."""
        return [self._known[number] for number in sorted(self._known)]

    def next(self) -> tuple[EpochRecord, bool]:
        """Wait for the end of an epoch; return its record and whether it is the last.

        Raises:
            Diverged: a loss is not finite.
            UserError: a row was bad, or memory ran out.
            TrainingFailedError: the run's workers failed too often.
        """
        if not self._thread.ident:
            self._thread.start()
        found = self._seen.get()
        if isinstance(found, BaseException):
            raise found
        number, self._trained = found
        return self._known[number], self._trained

    def save(self, folder: Path) -> None:
        """Write the epochs so far; the run has its own checkpoints."""
        folder.mkdir(parents=True, exist_ok=True)
        write_history(folder, self.history)

    def resume(self, folder: Path) -> None:
        """Read what :meth:`save` wrote; the run resumes by its name."""
        self._known |= {record.epoch: record for record in read_history(folder)}

    def close(self) -> None:
        """End the run and wait for its end: this process's end would stop the controller, but not free its workers' resources.

        The run may not restart its workers (Tune decides on another try), or it would reserve resources that nobody frees.
        """
        if self._trained:
            self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive() and self._placed.wait(PATIENCE_SECONDS) and self._group:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(self._group)))
            self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        try:
            # The export stays in the last checkpoint: the main command trains the chosen model again.
            history = train(self._spec, self._reservation, self._storage, self._take, max_failures=0)
            self._known |= {record.epoch: record for record in history}
            self._seen.put((history[-1].epoch, True))
        # The trial raises it in its own thread.
        except BaseException as error:
            self._seen.put(error)

    def _take(self, event: Event) -> None:
        if event["kind"] == "started":
            known = [EpochRecord.model_validate(found) for found in event["history"]]
            self._known |= {record.epoch: record for record in known}
            self._group = event["group"]
            self._placed.set()
        elif event["kind"] == "epoch":
            record = EpochRecord.model_validate(event["record"])
            self._known[record.epoch] = record
            self._seen.put((record.epoch, event["final"]))
