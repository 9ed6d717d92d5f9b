"""One MLflow run: started once, told the metrics of each epoch, and never the reason why training stops."""

import json
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from beear.errors import UserError
from beear.records.redact import redact
from beear.registry.connection import client, lost_errors, reason
from beear.registry.experiment import create_run, experiment_id_of, unfinished_run
from beear.registry.flatten import metric_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

BUFFER = "pending_metrics.jsonl"


class Run:
    """A run at a tracking server; metrics the server does not take wait in a file in the output folder."""

    def __init__(self, client: "MlflowClient", uri: str, experiment: str, run_id: str, folder: str, identity: str) -> None:
        """Hold an existing run; use :meth:`start` or :meth:`reopen`."""
        self.client = client
        self.uri = uri
        self.experiment = experiment
        self.run_id = run_id
        self.folder = folder
        self.identity = identity

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        folder: str,
        *,
        identity: str,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        resume: bool = True,
    ) -> "Run":
        """Start a run, or go on with the one of the same identity that was cut off.

        Args:
            uri: tracking URI, checked before.
            experiment: its name; made when missing.
            folder: the output folder, where metrics wait while the server is away.
            identity: the identity digest.
            name: the run's name.
            config: the resolved configuration; logged as dotted parameters without credentials.
            tags: further tags.
            resume: look for a run of this identity that never finished.

        Raises:
            UserError: the server does not take the run.
        """
        made = client(uri)
        try:
            experiment_id = experiment_id_of(made, uri, experiment)
            found = unfinished_run(made, experiment_id, identity) if resume else None
            if found is None:
                found = create_run(made, experiment_id, name, identity, config, tags or {})
        except lost_errors() as error:
            raise UserError(
                f'tracking.uri: "{redact(uri)}" does not take a run ({reason(error, uri)}); '
                "expected a working MLflow server or database"
            ) from None
        return cls(made, uri, experiment, found, folder, identity)

    @classmethod
    def reopen(
        cls,
        uri: str,
        experiment: str,
        folder: str,
        *,
        run_id: str | None,
        identity: str,
        name: str,
        config: Mapping[str, Any],
    ) -> "Run":
        """Return the run ``run_id`` to add to it, or a new one where the server does not know it (any more).

        Raises:
            UserError: the server does not take the run.
        """
        from mlflow.exceptions import MlflowException

        made = client(uri)
        try:
            if run_id and made.get_run(run_id).info.lifecycle_stage == "active":
                return cls(made, uri, experiment, run_id, folder, identity)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise UserError(
                    f'tracking.uri: "{redact(uri)}" cannot be used ({reason(error, uri)}); expected a working MLflow server'
                ) from None
        return cls.start(uri, experiment, folder, identity=identity, name=name, config=config, resume=False)

    @property
    def buffer(self) -> pathlib.Path:
        """The file of metrics that are still to be delivered."""
        return pathlib.Path(self.folder) / BUFFER

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> bool:
        """Log one epoch's numbers; return False if they wait in the buffer because the server is away."""
        clean = {metric_name(key): float(value) for key, value in metrics.items()}
        line = json.dumps({"time": int(time.time() * 1000), "step": step, "metrics": clean})
        self.buffer.parent.mkdir(parents=True, exist_ok=True)
        with self.buffer.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
        return self.flush()

    def flush(self) -> bool:
        """Deliver what waits; return whether nothing waits any more."""
        try:
            self.deliver()
        except lost_errors():
            return False
        return True

    def deliver(self) -> None:
        """Deliver what waits.

        Raises:
            MlflowException or OSError: the server did not take it; it goes on waiting.
        """
        if not self.buffer.exists():
            return
        from mlflow.entities import Metric

        metrics = []
        for line in self.buffer.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a process that was killed while it wrote
            metrics += [Metric(key, value, record["time"], record["step"]) for key, value in record["metrics"].items()]
        for start in range(0, len(metrics), 500):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 500])
        self.buffer.unlink()

    def finish(self, status: str = "FINISHED") -> bool:
        """Deliver what waits and close the run (FINISHED, FAILED or KILLED); return whether the server took it."""
        try:
            self.deliver()
            self.client.set_terminated(self.run_id, status)
        except lost_errors():
            return False
        return True
