"""A quiet, impatient MLflow client. MLflow is imported here and only when a client is asked for: it takes seconds."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

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


def client(uri: str) -> "MlflowClient":
    """Return a client for tracking and registry at ``uri``, without touching MLflow's process-wide settings."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Says "Retrying" for every request to a server that is away; what came of it is told once, by us.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


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
    """Return the gist of an MLflow error on one line, without credentials."""
    from beear.records.redact import redact

    text = str(error).replace(uri, redact(uri))
    first = redact(" ".join(text.split()))
    if "Connection refused" in first:
        return "connection refused"
    return first if len(first) <= 200 else first[:199] + "…"
