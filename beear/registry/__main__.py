"""``python -m beear.registry OUT_DIR``: register a finished output folder, now or again.

The address comes from MLFLOW_TRACKING_URI, else from report.json (which holds no credentials).
"""

import os
import sys

from beear.errors import UserError
from beear.registry.check import check, resolve_uri
from beear.registry.errors import RegistrationPending
from beear.registry.register import default_name, log_report, register
from beear.registry.run import Run
from beear.report.schema import Report
from beear.report.write import read


def main(arguments: list[str]) -> int:
    """Register the folder named first; return the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m beear.registry OUT_DIR", file=sys.stderr)
        return 2
    try:
        print(_register(os.path.abspath(arguments[0])))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except RegistrationPending as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _register(folder: str) -> str:
    report = read(folder)
    known = report.registry
    uri = resolve_uri(os.environ.get("MLFLOW_TRACKING_URI") or _text(known, "tracking_uri"), folder)
    check(uri)
    run = Run.reopen(
        uri,
        _text(known, "experiment") or "beear",
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


def _text(known: dict[str, object], key: str) -> str | None:
    value = known.get(key)
    return value if isinstance(value, str) and value else None


def _name(report: Report) -> str:
    section = report.config.get("tracking")
    wanted = section.get("register_as") if isinstance(section, dict) else None
    return _text(report.registry, "model_name") or wanted or default_name(str(report.model.get("path", "model")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
