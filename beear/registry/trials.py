"""A search at the tracking server: its run, and under it a run for each trial."""

from collections.abc import Sequence
from pathlib import Path

from beear.errors import UserError
from beear.records.search import SearchReport, Trial
from beear.registry.connection import lost_errors
from beear.registry.run import BUFFER, Run

PARENT = "mlflow.parentRunId"
NUMBERS = ("asr", "asr_high", "utility", "utility_loss", "over_refusal_rise", "composite")


class Child:
    """One trial's run."""

    def __init__(self, parent: Run, folder: str, identity: str, name: str, trial: Trial) -> None:
        """Start the run, or go on with the one that was cut off.

        Raises:
            UserError: the server does not take it.
        """
        self._logged = 0
        self._run = Run.start(
            parent.uri, parent.experiment, folder, identity=identity, name=name, config=trial.settings,
            tags={PARENT: parent.run_id},
        )  # fmt: skip

    def go_on(self, trial: Trial) -> None:
        """Take the trial's epochs for logged: they are at the server, or wait."""
        self._logged = len(trial.epochs)

    def epoch(self, trial: Trial) -> None:
        """Log the epochs that are not logged yet."""
        for epoch in trial.epochs[self._logged :]:
            values = epoch.model_dump()
            numbers = {name: values[name] for name in NUMBERS} | {f"selection/{k}": v for k, v in epoch.selection.items()}
            self._run.log_metrics(numbers, epoch.epoch)
        self._logged = len(trial.epochs)

    def end(self, trial: Trial) -> None:
        """Close the run; where the server is away, that waits as its numbers do."""
        self.epoch(trial)
        if self._ended(trial):
            return
        self._run.buffer.parent.mkdir(parents=True, exist_ok=True)
        self._run.buffer.touch()

    def _ended(self, trial: Trial) -> bool:
        try:
            self._run.deliver()
            self._run.client.set_tag(self._run.run_id, "beear.status", trial.status)
        except lost_errors():
            return False
        return self._run.finish("FAILED" if trial.status == "failed" else "FINISHED")


def deliver_waiting(parent: Run, folder: Path, trials: Sequence[Trial]) -> bool:
    """Deliver the numbers of trials that wait in ``folder`` and close their runs; return whether none waits any more."""
    for trial in trials:
        waiting = folder / trial.id
        if not (waiting / BUFFER).exists():
            continue
        try:
            child = Child(parent, str(waiting), f"{parent.identity}/{trial.number}", f"trial {trial.number}", trial)
        except UserError:
            return False
        child.go_on(trial)
        child.end(trial)
    return not any(folder.rglob(BUFFER))


def attach(run: Run, folder: str, report: SearchReport) -> bool:
    """Log what was chosen with the search's files, and close its run; return whether the server took it."""
    run.folder = folder
    try:
        run.client.set_tag(run.run_id, "beear.chosen", report.why[:500])
        for path in sorted(Path(folder).iterdir()):
            if path.is_file() and path.suffix in (".json", ".html", ".yaml"):
                run.client.log_artifact(run.run_id, str(path))
    except lost_errors():
        return False
    run.log_metrics({"trials": len(report.trials), "epochs_run": report.epochs_run, "epochs_planned": report.epochs_planned}, 0)
    return run.finish()
