"""Registering a finished output folder, now or again: what a run does at its end, from the folder alone."""

from beear.records.report import Report
from beear.registry.register import default_name, log_report, register
from beear.registry.run import Run
from beear.report.write import read


def register_folder(folder: str, uri: str) -> str:
    """Log the report in ``folder`` at ``uri`` and register its model, if it has one; return a line that says where it is.

    The run that made the folder is gone on with where the server knows it. A version that is there is found again; weights
    without one, where the server was lost in between, are uploaded anew.

    Raises:
        UserError: the folder holds no report, or the server does not take the run.
        RegistrationPending: the server went away meanwhile; the folder is complete.
    """
    report = read(folder)
    known = report.registry
    run = Run.reopen(
        uri,
        _text(known, "experiment") or _configured(report, "experiment") or "beear",
        folder,
        run_id=_text(known, "mlflow_run_id"),
        identity=_text(known, "identity") or report.run_id,
        name=report.run_id,
        config=report.config,
    )
    if report.after is None:
        log_report(folder, report, run)
        return f"logged as run {run.run_id}"
    done = register(folder, report, _name(report), run)
    return f"registered as {done.name} version {done.version}; load it from {done.model_uri}"


def tracked_at(report: Report) -> str | None:
    """Return the address that the report's run was tracked at, without credentials."""
    return _text(report.registry, "tracking_uri")


def _text(known: dict[str, object], key: str) -> str | None:
    value = known.get(key)
    return value if isinstance(value, str) and value else None


def _configured(report: Report, key: str) -> str | None:
    section = report.config.get("tracking")
    return _text(section, key) if isinstance(section, dict) else None


def _name(report: Report) -> str:
    known = _text(report.registry, "model_name") or _configured(report, "register_as")
    return known or default_name(str(report.model.get("path", "model")))
