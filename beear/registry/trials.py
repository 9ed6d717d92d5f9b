"""A search at the tracking server: its run, and under it a run for each trial."""

from collections.abc import Sequence
from pathlib import Path

from beear.errors import UserError
from beear.records.search import SearchReport, Trial
from beear.registry.run import BUFFER, Run
from beear.registry.server import lost_errors

PARENT = "mlflow.parentRunId"
NUMBERS = ("asr", "asr_high", "utility", "utility_loss", "over_refusal_rise", "composite")


class TrialRun:
    """The run of one trial, below the search's own."""

    def __init__(self, parent: Run, folder: str, identity: str, name: str, trial: Trial, logged: int = 0) -> None:
        """Start the run, or continue the one that was interrupted.

        Args:
            parent: the search's run.
            folder: where metrics wait while the server is away.
            identity: the trial's identity.
            name: the run's name.
            trial: its settings become parameters.
            logged: how many of its epochs the server has, or wait in ``folder``.

        Raises:
            UserError: the server does not take it.
        """
        self._logged = logged
        self._run = Run.start(
            parent.uri, parent.experiment, folder, identity=identity, name=name, config=trial.settings,
            tags={PARENT: parent.run_id},
        )  # fmt: skip

    def epoch(self, trial: Trial) -> None:
        """Log the epochs that are not logged yet."""
        for epoch in trial.epochs[self._logged :]:
            values = epoch.model_dump()
            numbers = {name: values[name] for name in NUMBERS} | {f"selection/{k}": v for k, v in epoch.selection.items()}
            self._run.log_metrics(numbers, epoch.epoch)
        self._logged = len(trial.epochs)

    def end(self, trial: Trial) -> None:
        """Log what is left and close the run. Where the server is away, its buffer says that this is still to be done."""
        self.epoch(trial)
        try:
            self._run.deliver()
            self._run.client.set_tag(self._run.run_id, "beear.status", trial.status)
        except lost_errors():
            closed = False
        else:
            closed = self._run.finish("FAILED" if trial.status == "failed" else "FINISHED")
        if not closed:
            self._run.buffer.parent.mkdir(parents=True, exist_ok=True)
            self._run.buffer.touch()


def deliver_waiting(parent: Run, folder: Path, trials: Sequence[Trial]) -> bool:
    """Send the metrics of trials that wait in ``folder`` and close their runs; return whether the server took all of them."""
    for trial in trials:
        waiting = folder / trial.id
        if not (waiting / BUFFER).exists():
            continue
        identity, name = f"{parent.identity}/{trial.number}", f"trial {trial.number}"
        try:
            TrialRun(parent, str(waiting), identity, name, trial, logged=len(trial.epochs)).end(trial)
        except UserError:
            return False
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
