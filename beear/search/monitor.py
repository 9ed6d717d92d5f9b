"""Keeps a record of every trial in a file, and tells listeners (the table on the screen, the tracker) of changes."""

import json
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from beear.evaluation.trials import ENDED, best_epoch
from beear.files import write_text
from beear.records.search import Trial, TrialEpoch
from beear.search import tune_state
from beear.search.shared import run_folder
from beear.search.trial import settings_of

Told = Callable[[Trial, str], None]
# Listeners in this process, by the search's file. Tune pickles its callbacks, and a screen cannot be pickled.
LISTENING: dict[str, Told] = {}


class Monitor(tune.Callback):
    """Keeps a :class:`Trial` for each of Tune's trials in the file ``path``, which outlives the driver."""

    def __init__(self, path: Path, planned: int) -> None:
        """Keep trials of ``planned`` epochs at most in ``path``."""
        self._path, self._planned = str(path), planned
        self._trials: dict[str, Trial] = {}
        self._since: dict[str, float] = {}
        self._dropped: set[str] = set()

    def setup(self, *_: Any, **info: Any) -> None:
        """Read what an earlier driver left."""
        self._trials, self._since = {trial.id: trial for trial in kept_trials(Path(self._path))}, {}
        self._dropped = set()

    def forget_unfinished(self) -> list[dict[str, Any]]:
        """Keep only the trials that have ended, for an experiment that starts without Tune's state; return their settings."""
        path = Path(self._path)
        done = [trial for trial in kept_trials(path) if trial.status in (*ENDED, "failed")]
        if path.exists():
            write_trials(path, done)
        return [trial.settings for trial in done]

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial starts."""
        found = self._of(trial)
        found.started = self._since[found.id] = time.time()
        found.status = "running"
        self._tell(found, "started")

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has trained an epoch, or has failed."""
        found = self._of(trial)
        self._clock(found)
        found.epochs = [TrialEpoch.model_validate(epoch) for epoch in result.get("epochs", [])]
        found.best_epoch = best_epoch(found.epochs)
        if found.start_up is None and result.get("began"):
            found.start_up = round(max(0.0, result["began"] - (found.started or result["began"])), 2)
        if result.get("failed"):
            found.status, found.reason, found.mistake = "failed", result["failed"], result["mistake"]
        elif result.get("met"):
            found.status, found.reason = "met the gate", f"after epoch {len(found.epochs)}"
        elif result.get("hopeless"):
            found.status = "stopped early"
            found.reason = f"{_when(found)}: next to nothing of what was there was removed"
        self._tell(found, "epoch")

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial has ended, by itself or stopped by a scheduler."""
        found = self._of(trial)
        self._clock(found)
        if found.status == "running":
            whole = bool(trial.last_result.get("through"))
            found.status = "finished" if whole else "stopped early"
            if not whole:
                found.reason = f"{_when(found)}: its ASR was among the worse ones"
        self._tell(found, "ended")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial has crashed for good."""
        found = self._of(trial)
        self._clock(found)
        # A trial that has a result keeps it, even if its process fails after that.
        if found.status in ("waiting", "running"):
            found.status, found.reason = "failed", crash_of(trial)
        self._tell(found, "ended")

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial has crashed and restarts from its last epoch."""
        found = self._of(trial)
        found.restarts += 1
        self._tell(found, "restarted")

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Remove the checkpoints of ended trials, once Tune has recorded their end."""
        spent = [trial for trial in trials if trial.is_finished() and trial.trial_id not in self._dropped]
        if not spent:
            return
        assert spent[0].storage is not None
        written = tune_state.ended(Path(spent[0].storage.experiment_fs_path))
        for trial in spent:
            if trial.trial_id in written:
                drop_checkpoints(trial, Path(self._path).parent)
                self._dropped.add(trial.trial_id)

    def _clock(self, found: Trial) -> None:
        """Add the time since the last event, so that a crash or a killed driver loses at most one epoch's time."""
        found.ended = time.time()
        found.seconds = round(found.seconds + found.ended - self._since.get(found.id, found.ended), 2)
        self._since[found.id] = found.ended

    def _of(self, trial: TuneTrial) -> Trial:
        if trial.trial_id not in self._trials:
            self._trials[trial.trial_id] = Trial(
                id=trial.trial_id,
                number=len(self._trials),
                settings=settings_of(dict(trial.config)),
                status="waiting",
                planned_epochs=self._planned,
            )
        return self._trials[trial.trial_id]

    def _tell(self, trial: Trial, what: str) -> None:
        write_trials(Path(self._path), self._trials.values())
        if self._path in LISTENING:
            LISTENING[self._path](trial, what)


def _when(trial: Trial) -> str:
    return f"after epoch {len(trial.epochs)} of {trial.planned_epochs}"


def kept_trials(path: Path) -> list[Trial]:
    """Return the trials of a search by their numbers; none where it has not begun."""
    if not path.exists():
        return []
    return sorted((Trial.model_validate(found) for found in json.loads(path.read_text())), key=lambda trial: trial.number)


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Write the trials, whole or not at all."""
    write_text(path, json.dumps([trial.model_dump(mode="json") for trial in trials]))


def crash_of(trial: TuneTrial) -> str:
    """Return the last line of a crashed trial's error."""
    path = Path(trial.error_file) if trial.error_file else None
    text = path.read_text() if path is not None and path.exists() else ""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["its process ended"])[-1][:300]


def drop_checkpoints(trial: TuneTrial, folder: Path) -> None:
    """Remove an ended trial's checkpoints: weights and optimizer state would fill the disk."""
    assert trial.storage is not None
    for left in (*Path(trial.storage.trial_fs_path).glob("checkpoint_*"), run_folder(folder, trial.trial_id)):
        shutil.rmtree(left, ignore_errors=True)
