"""One trial as Ray Tune runs it: a step is an epoch, and its result is what schedulers, table and page show."""

import gc
import time
from pathlib import Path
from typing import Any

from ray import tune

from beear.cluster.checkpoint import HISTORY, read_history, write_history
from beear.cluster.training_worker import fault_of
from beear.records.report import EpochRecord
from beear.search.in_process_trial import InProcessTraining
from beear.search.ray_train_trial import RayTrainTraining
from beear.search.shared import Shared

# The objective of a failed trial: larger than any other.
WORST = 5.0
OBJECTIVE, EPOCH, SETTINGS = "objective", "epoch", "settings"
# A file in the last checkpoint of a trial that ended by itself; it says whether its schedule was complete.
OVER = "over"


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return a trial's settings by dotted field: from a list made beforehand, or drawn by a search algorithm."""
    found: dict[str, Any] = config.get(SETTINGS, config)
    return found


class TrialTrainable(tune.Trainable):
    """Trains with a trial's settings until the schedule ends, the gate is met, the trial is hopeless, or Tune stops it.

    A fault that another try would meet again ends the trial with its reason. After a crash Tune restarts the trial from its last
    epoch.
    """

    kind: type[InProcessTraining] | type[RayTrainTraining]
    course: InProcessTraining | RayTrainTraining | None

    def setup(self, config: dict[str, Any], shared: Shared) -> None:  # type: ignore[override]  # Tune hands it parameters
        """Begin the trial."""
        self.shared, self.course = shared, None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in the same process. The first step builds its training, so that Tune retries what fails there."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.settings, self.began, self.ended = settings_of(config), 0.0, False
        self.failed, self.mistake = "", False
        # A trial may end before Tune records it. After a resume Tune runs it once more, which only reports again.
        self.over: list[EpochRecord] = []
        self.through = False

    def _open(self) -> InProcessTraining | RayTrainTraining:
        if self.course is None:
            self.course = self.kind(self.shared, self.settings, self.trial_id)
        return self.course

    def step(self) -> dict[str, Any]:
        """Train one epoch and return the trial's result so far.

        Raises:
            Exception: a crash; Tune tries again.
        """
        if self.over:
            return self._said(self.through)
        final = True
        try:
            course = self._open()
            self.began = self.began or time.time()
            _, final = course.next()
        except Exception as error:
            # Settings change no way of spreading, so the search's own training says what memory was asked for.
            fault = fault_of(error, self.shared.spec(self.settings).training)
            if fault is None:
                raise
            self.failed, self.mistake = fault.sentence, fault.kind == "user"
        return self._said(final)

    @property
    def history(self) -> list[EpochRecord]:
        """The epochs so far."""
        return self.over or (self.course.history if self.course else [])

    def _said(self, final: bool) -> dict[str, Any]:
        yardstick = self.shared.yardstick
        epochs = [yardstick.epoch(record) for record in self.history]
        usable = epochs if not self.failed else []
        met = bool(usable) and yardstick.success(usable[-1])
        hopeless = bool(usable) and not met and yardstick.hopeless(usable[-1])
        self.ended, self.through = bool(self.failed) or met or hopeless or final, final and not self.failed
        return {
            EPOCH: epochs[-1].epoch if epochs else 0,
            OBJECTIVE: yardstick.objective(usable[-1]) if usable else WORST,
            "epochs": [epoch.model_dump(mode="json") for epoch in epochs],
            "failed": self.failed,
            "mistake": self.mistake,
            "met": met,
            "hopeless": hopeless and not self.through,
            "began": self.began,
            "through": self.through,
            tune.result.DONE: self.ended,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write what the trial resumes from, or that it has ended."""
        folder = Path(checkpoint_dir)
        if self.failed or not self.history:
            return
        if not self.ended:
            assert self.course is not None
            self.course.save(folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_history(folder, self.history)
        (folder / OVER).write_text("through" if self.through else "")

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """Resume from a checkpoint."""
        folder = Path(checkpoint_dir)
        if (folder / OVER).exists():
            self.over, self.through = read_history(folder), bool((folder / OVER).read_text())
        elif (folder / HISTORY).exists():
            self._open().resume(folder)

    def cleanup(self) -> None:
        """Free the training now: a GPU has no room for two models, and Python frees reference cycles late."""
        if self.course is not None:
            self.course.close()
            self.course = None
        # A training that could not be built may have left parts.
        gc.collect()


class InProcessRun(TrialTrainable):
    """A trial in a process that serves several trials."""

    kind = InProcessTraining


class RayTrainRun(TrialTrainable):
    """A trial with Ray Train workers of its own."""

    kind = RayTrainTraining

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Refuse to reuse the process: the workers end with it."""
        return False
