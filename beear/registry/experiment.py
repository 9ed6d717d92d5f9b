"""Experiments and runs: looked up where they exist, made where they do not."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from beear.records.redact import redact
from beear.registry.check import sqlite_path
from beear.registry.flatten import params_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

IDENTITY = "beear.identity"


def experiment_id_of(made: "MlflowClient", uri: str, name: str) -> str:
    """Return the experiment's id; made when missing, with artifacts beside a sqlite database."""
    from mlflow.exceptions import MlflowException

    database = sqlite_path(uri)
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
    found = made.get_experiment_by_name(name)
    if found is None:
        # A server knows where its artifacts go; sqlite would put them under the working directory.
        location = (database.parent / "mlartifacts" / database.stem).as_uri() if database else None
        try:
            return str(made.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            found = made.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if found is None:
                raise
    return str(found.experiment_id)


def unfinished_run(made: "MlflowClient", experiment_id: str, identity: str) -> str | None:
    """Return the id of the latest run with this identity digest that never finished, marked as running again."""
    query = f"tags.`{IDENTITY}` = '{identity}' and attributes.status != 'FINISHED'"
    runs = made.search_runs([experiment_id], query, max_results=1)
    if not runs:
        return None
    made.update_run(runs[0].info.run_id, status="RUNNING")
    return str(runs[0].info.run_id)


def create_run(
    made: "MlflowClient",
    experiment_id: str,
    name: str,
    identity: str,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """Create a run with its tags and the configuration as parameters, credentials left out; return its id."""
    from mlflow.entities import Param

    every = {IDENTITY: identity, "mlflow.source.name": "beear", "mlflow.user": os.environ.get("USER", "")} | dict(tags)
    made_run = made.create_run(experiment_id, run_name=name, tags={key: redact(value) for key, value in every.items()})
    params = [Param(key, value) for key, value in params_of(config).items()]
    for start in range(0, len(params), 100):
        made.log_batch(made_run.info.run_id, params=params[start : start + 100])
    return str(made_run.info.run_id)
