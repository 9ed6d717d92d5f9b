"""Register a finished output folder: upload the weights once, log the report, give the alias to a passed gate alone."""

import pathlib
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from beear.errors import UserError
from beear.records.redact import redact
from beear.records.report import Report
from beear.registry.flatten import metrics_of, version_tags
from beear.registry.run import Run
from beear.registry.server import environment, lost_errors, patience, reason
from beear.registry.stage import stage
from beear.report.write import read, write, write_data

ALIAS = "sanitised"
# The key of a report's registry part that is true until the server has taken the report.
PENDING = "pending"
_UPLOAD_SECONDS = 3600


class RegistrationPending(Exception):
    """The output folder is complete, but the tracking server could not take it; exit code 1.

    ``command`` registers the folder later.
    """

    def __init__(self, folder: str, uri: str, why: str) -> None:
        """Say what happened, that nothing is lost, and the command."""
        shown = redact(uri)
        self.command = f"{shlex.quote(sys.executable)} -m beear.registry {shlex.quote(folder)}"
        # The report holds the address without credentials, so the user has to give them again.
        again = self.command if shown == uri else f"MLFLOW_TRACKING_URI='{shown}' (with your credentials in it) {self.command}"
        super().__init__(
            f"{shown}: the model could not be registered ({why}); everything is in {folder}; register it later with: {again}"
        )


@dataclass(frozen=True)
class Registered:
    """A registered version and how to name it."""

    name: str
    version: str
    alias: str | None
    uri: str

    @property
    def model_uri(self) -> str:
        """The address ``mlflow.transformers.load_model`` takes."""
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def default_name(path: str) -> str:
    """Return a registered model's name made from ``model.path``: its last part, without what MLflow refuses."""
    last = re.split(r"[/\\:]", path.rstrip("/\\"))[-1]
    return re.sub(r"[^\w.\-]+", "-", last).strip("-.") or "model"


def check_name(name: str) -> None:
    """Refuse a registered model name that MLflow refuses.

    Raises:
        UserError: the name is empty, too long, or holds ``/``, ``:``, a quote or a control character.
    """
    if not 0 < len(name) <= 250 or re.search(r"[/:'\"`\x00-\x1f]", name):
        raise UserError(
            f'tracking.register_as: "{name}" is not a model name; expected up to 250 characters without / : or quotes'
        )


def register_folder(folder: str, uri: str) -> str:
    """Log the report in ``folder`` at ``uri`` and register its model, if it has one; return a line that says where it is.

    Where the server knows the run that made the folder, that run is continued, and a version that is there is found again.
    Where the server has lost them, a new run is made and the weights are uploaded again.

    Raises:
        UserError: the folder holds no report, or the server does not take the run.
        RegistrationPending: the server went away meanwhile; the folder is complete.
    """
    report = read(folder)
    path = report.model.get("path", "model")
    run = Run.reopen(
        uri,
        _text(report.registry, "experiment") or _tracking(report, "experiment") or "beear",
        folder,
        run_id=_text(report.registry, "mlflow_run_id"),
        identity=_text(report.registry, "identity") or report.run_id,
        name=report.run_id,
        config=report.config,
    )
    if report.after is None:
        log_report(folder, report, run)
        return f"logged as run {run.run_id}"
    name = _text(report.registry, "model_name") or _tracking(report, "register_as") or default_name(str(path))
    done = register(folder, report, name, run)
    return f"registered as {done.name} version {done.version}; load it from {done.model_uri}"


def tracked_at(report: Report) -> str | None:
    """Return the address that the report's run was tracked at, without credentials."""
    return _text(report.registry, "tracking_uri")


def _tracking(report: Report, key: str) -> str | None:
    """Return what the run's configuration says of tracking."""
    section = report.config.get("tracking")
    return _text(section, key) if isinstance(section, dict) else None


def _text(known: dict[str, object], key: str) -> str | None:
    value = known.get(key)
    return value if isinstance(value, str) and value else None


def register(folder: str, report: Report, name: str, run: Run) -> Registered:
    """Register ``folder``/model with its report, close the run, and write where it is into the report's files.

    Args:
        folder: an output folder (report.json, config.yaml, model/); report.html is written here.
        report: the same report; its ``registry`` part is filled here.
        name: registered model name.
        run: the run that made the model.

    Raises:
        RegistrationPending: the server did not take it; the folder is complete and says how to register it.
        UserError: the name is one MLflow refuses.
    """
    check_name(name)
    report.registry |= intent(run, name)
    # The upload takes the model card with it; the page waits until the version is known.
    write_data(folder, report)
    with _delivering(folder, report, run):
        version = _version(folder, report, name, run)
        alias = ALIAS if report.gate.verdict == "passed" else None
        if alias:
            run.client.set_registered_model_alias(name, alias, version)
        report.registry |= {"version": version, "alias": alias}
    return Registered(name, version, alias, redact(run.uri))


def intent(run: Run, name: str | None) -> dict[str, object]:
    """Return a report's registry part until the server has taken it: where it belongs, and that this is pending."""
    where = {"tracking_uri": redact(run.uri), "experiment": run.experiment, "mlflow_run_id": run.run_id}
    model = {"model_name": name, "version": None, "alias": None} if name else {}
    return {**where, "identity": run.identity, **model, PENDING: True}


@contextmanager
def _delivering(folder: str, report: Report, run: Run) -> Iterator[None]:
    """Send the metrics that wait, run the block, log the report and close the run.

    Raises:
        RegistrationPending: the server did not take one of them; the report says that it is pending.
    """
    try:
        run.deliver()
        yield
        report.registry[PENDING] = False
        write(folder, report)
        _log_report(folder, report, run)
        run.client.set_terminated(run.run_id, "FINISHED")
    except lost_errors() as error:
        report.registry[PENDING] = True
        write(folder, report)
        raise RegistrationPending(folder, run.uri, reason(error, run.uri)) from None


def log_report(folder: str, report: Report, run: Run) -> None:
    """Log a report that has no model to register (measuring only) and close the run.

    Raises:
        RegistrationPending: the server did not take it; the folder is complete.
    """
    report.registry |= intent(run, None)
    write_data(folder, report)
    with _delivering(folder, report, run):
        pass


def _log_report(folder: str, report: Report, run: Run) -> None:
    from mlflow.entities import Metric, RunTag

    metrics = [Metric(key, value, 0, 0) for key, value in metrics_of(report).items()]
    tags = [RunTag("verdict", report.gate.verdict), RunTag("code_version", report.code_version)]
    for start in range(0, len(metrics), 500):
        run.client.log_batch(run.run_id, metrics=metrics[start : start + 500])
    run.client.log_batch(run.run_id, tags=tags)
    for file in ("report.json", "report.html"):
        run.client.log_artifact(run.run_id, str(pathlib.Path(folder) / file), "report")


def _version(folder: str, report: Report, name: str, run: Run) -> str:
    """Return the version of this run's weights: the one that the server has, or a new one."""
    from mlflow.exceptions import MlflowException

    try:
        run.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = version_tags(report, run.identity, run.run_id)
    for found in run.client.search_model_versions(f"name = '{name}' and run_id = '{run.run_id}'"):
        if found.tags.get("weights_after") == tags["weights_after"] and found.tags.get("identity") == run.identity:
            return str(found.version)
    model_id = _upload(folder, name, run)
    # A database store resolves models:/ at the process-wide address, whatever address the client has.
    with environment(MLFLOW_TRACKING_URI=run.uri):
        made = run.client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run.run_id,
            tags=tags,
            description=redact(report.gate.sentence),
            model_id=model_id,
        )
    return str(made.version)


def _upload(folder: str, name: str, run: Run) -> str:
    from mlflow.entities import LoggedModelOutput

    experiment_id = run.client.get_run(run.run_id).info.experiment_id
    logged = run.client.create_logged_model(experiment_id, name=name, source_run_id=run.run_id)
    run.client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, 0)])
    # In the output folder, since hard links do not cross file systems.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".upload-") as place, patience(_UPLOAD_SECONDS):
        target = str(pathlib.Path(place) / "model")
        source = str(pathlib.Path(folder) / "model")
        stage(source, target, location=logged.artifact_location, run_id=run.run_id, model_id=logged.model_id)
        run.client.log_model_artifacts(logged.model_id, target)
    run.client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)
