"""Delivers a run's results: the output folder, the tracking server, the summary on the screen."""

import shutil
import sys
from pathlib import Path

from beear.config.schema import RunConfig
from beear.records.report import EpochRecord, Report
from beear.registry.check import check, resolve_uri
from beear.registry.register import (
    PENDING,
    RegistrationPending,
    check_name,
    default_name,
    intent,
    log_report,
    register,
    register_folder,
)
from beear.registry.run import Run
from beear.report.text import summary
from beear.report.write import read, write, write_data
from beear.run.output_folder import OutputFolder
from beear.run.progress import Progress
from beear.run.stages import Placed

KEPT = ("report.json", "report.html", "model", "config.yaml", "events.jsonl", "pending_metrics.jsonl")
FAILED = 1


def check_tracking(asked: RunConfig) -> str | None:
    """Return the tracking URI in use, None where tracking is off; nothing is written.

    Raises:
        UserError: the server cannot be reached or used, or the model's name is one MLflow refuses.
    """
    if not asked.tracking.enabled:
        return None
    uri = resolve_uri(asked.tracking.uri, asked.output.dir)
    check(uri)
    if asked.tracking.register_as:
        check_name(asked.tracking.register_as)
    return uri


class Tracker:
    """The MLflow run of a placed run; it does nothing where tracking is off, and before it is started."""

    def __init__(self, uri: str | None, placed: Placed, folder: Path) -> None:
        """Keep what a run needs; the server hears of it at :meth:`start`."""
        self.run: Run | None = None
        self._delivered = False
        self._uri, self._placed, self._folder = uri, placed, folder
        asked = placed.checked.asked
        self._name = asked.tracking.register_as or default_name(asked.model.path)

    def start(self) -> None:
        """Start the run, or go on with the one that was cut off.

        Raises:
            UserError: the server does not take the run.
        """
        if self._uri is None:
            return
        checked = self._placed.checked
        self.run = Run.start(
            self._uri,
            checked.asked.tracking.experiment,
            str(self._folder),
            identity=checked.identity,
            name=f"{default_name(checked.asked.model.path)}-{checked.identity[:8]}",
            config=self._placed.values,
        )

    def log(self, metrics: dict[str, float], step: int = 0) -> None:
        """Log numbers; they wait in the folder while the server is unreachable."""
        if self.run is not None:
            self.run.log_metrics(metrics, step)

    def epoch(self, record: EpochRecord) -> None:
        """Log one epoch."""
        inner = {f"inner/{c.placement}/steps": float(c.steps) for c in record.inner}
        losses = {f"loss/{k}": v for k, v in record.losses.items()}
        selection = {f"selection/{k}": v for k, v in record.selection.items()}
        self.log({**inner, **losses, **selection}, record.epoch)

    def intent(self, report: Report) -> dict[str, object]:
        """Return what the report says of the registry until the server has taken it."""
        return {} if self.run is None else intent(self.run, self._name if report.after else None)

    def deliver(self, folder: Path, report: Report) -> str:
        """Log the report and register the model; return a line that says where it is.

        Raises:
            RegistrationPending: the server did not take it; the folder is complete.
        """
        if self.run is None:
            return "not tracked (tracking.enabled is false)"
        self.run.folder = str(folder)
        self._delivered = True
        if report.after is None:
            log_report(str(folder), report, self.run)
            return f"run {self.run.run_id}"
        return register(str(folder), report, self._name, self.run).model_uri

    def delivered(self) -> None:
        """Keep the run open-ended as it is: everything is delivered, or the output folder records what is not."""
        self._delivered = True

    def close(self) -> None:
        """Mark a run that was not delivered as failed."""
        if self.run is not None and not self._delivered:
            self.run.finish("FAILED")


def deliver(report: Report, output: OutputFolder, tracker: Tracker, progress: Progress) -> int:
    """Write the report, move the folder into place, register, print the table; return the exit code.

    Raises:
        UserError: something else was put into the output folder meanwhile.
    """
    report.registry |= tracker.intent(report)
    # Registering renders the page, once it is known where the model is.
    (write if tracker.run is None else write_data)(output.staging, report)
    output.finish(KEPT)
    code = report.exit_code
    try:
        progress.stage("register", "registering")
        where = tracker.deliver(output.target, report)
    except RegistrationPending as error:
        progress.say(f"error: {error}")
        where, code = "not registered yet", FAILED
    progress.finish_stage()
    show(output.target, where)
    return code


def show_complete(folder: Path, uri: str | None, progress: Progress) -> int:
    """Print a complete folder's summary, after registering it where that is still due. Return the exit code."""
    where = None
    if uri and read(folder).registry.get(PENDING):
        try:
            where = register_folder(str(folder), uri)
        except RegistrationPending as error:
            progress.say(f"error: {error}")
            show(folder, "not registered yet")
            return FAILED
    return show(folder, where)


def show(folder: Path, registered: str | None = None) -> int:
    """Print a finished folder's summary; return its exit code."""
    report = read(folder)
    if not (folder / "report.html").exists():
        # The run was stopped while it registered.
        write(folder, report)
    where = {"report": str(folder / "report.html"), "data": str(folder / "report.json")}
    if (folder / "model").exists():
        where["model"] = str(folder / "model")
    name, version, alias = (report.registry.get(key) for key in ("model_name", "version", "alias"))
    if registered:
        where["registry"] = registered
    elif name and version:
        where["registry"] = f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}"
    print(summary(report, where=where, colour=sys.stdout.isatty(), width=shutil.get_terminal_size((110, 24)).columns))
    return report.exit_code
