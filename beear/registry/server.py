"""An MLflow server or database: a client for it, and the experiments and runs that it knows.

MLflow takes seconds to import, so it is imported only where a client is made.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping

from beear.records.redact import redact
from beear.registry.check import sqlite_path
from beear.registry.flatten import params_of

IDENTITY = "beear.identity"

# Set only where the user has not: no telemetry, no lines about runs, and no retries that go on for minutes.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class Server:
    """The tracking server and model registry at ``uri``. MLflow's process-wide settings stay as they are."""

    def __init__(self, uri: str) -> None:
        """Make a client for ``uri``, which :func:`beear.registry.check.check` has accepted."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # It logs "Retrying" for every request to a server that is away; the run itself reports the failure once.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self.uri = uri
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment ``name``, which is created where it is missing.

        Raises:
            MlflowException or OSError: the server does not take it.
        """
        from mlflow.exceptions import MlflowException

        database = sqlite_path(self.uri)
        if database:
            database.parent.mkdir(parents=True, exist_ok=True)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            # A server knows where its artifacts go; sqlite would put them under the working directory.
            location = (database.parent / "mlartifacts" / database.stem).as_uri() if database else None
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                # Another process may have created it meanwhile.
                found = self.client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
                if found is None:
                    raise
        return str(found.experiment_id)

    def unfinished_run(self, experiment_id: str, identity: str) -> str | None:
        """Return the id of the latest run with this identity digest that never finished, marked as running again."""
        query = f"tags.`{IDENTITY}` = '{identity}' and attributes.status != 'FINISHED'"
        runs = self.client.search_runs([experiment_id], query, max_results=1)
        if not runs:
            return None
        self.client.update_run(runs[0].info.run_id, status="RUNNING")
        return str(runs[0].info.run_id)

    def create_run(
        self, experiment_id: str, name: str, identity: str, config: Mapping[str, object], tags: Mapping[str, str]
    ) -> str:
        """Create a run with its tags and the configuration as parameters, without credentials; return its id."""
        from mlflow.entities import Param

        every = {IDENTITY: identity, "mlflow.source.name": "beear", "mlflow.user": os.environ.get("USER", "")} | dict(tags)
        run = self.client.create_run(experiment_id, run_name=name, tags={key: redact(value) for key, value in every.items()})
        params = [Param(key, value) for key, value in params_of(config).items()]
        # A server takes at most 100 parameters in one request.
        for start in range(0, len(params), 100):
            self.client.log_batch(run.info.run_id, params=params[start : start + 100])
        return str(run.info.run_id)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables inside the block, and put them back after it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def patience(seconds: int) -> contextlib.AbstractContextManager[None]:
    """Let one HTTP request take up to ``seconds`` inside the block, as uploading a weight file may."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    return environment(**{name: str(max(seconds, int(os.environ.get(name, 0))))})


def lost_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that mean the server did not take what it was sent."""
    from mlflow.exceptions import MlflowException

    return (MlflowException, OSError)


def reason(error: Exception, uri: str) -> str:
    """Return an MLflow error as one line of at most 200 characters, without credentials."""
    first = redact(" ".join(str(error).replace(uri, redact(uri)).split()))
    if "Connection refused" in first:
        return "connection refused"
    return first if len(first) <= 200 else first[:199] + "…"
