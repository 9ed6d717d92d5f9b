"""One MLflow run. A server that is away never stops training: the metrics of its epochs wait in a file."""

import json
import pathlib
import time
from collections.abc import Mapping

from beear.errors import UserError
from beear.records.redact import redact
from beear.registry.flatten import metric_name
from beear.registry.server import Server, lost_errors, reason

BUFFER = "pending_metrics.jsonl"


class Run:
    """A run at a tracking server. Metrics that the server does not take wait in the file ``buffer`` in ``folder``."""

    def __init__(self, server: Server, experiment: str, run_id: str, folder: str, identity: str) -> None:
        """Hold a run that the server knows; :meth:`start` and :meth:`reopen` find or create one."""
        self.client, self.uri = server.client, server.uri
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
        config: Mapping[str, object],
        tags: Mapping[str, str] | None = None,
        resume: bool = True,
    ) -> "Run":
        """Start a run, or continue the one of the same identity that was interrupted.

        Args:
            uri: the tracking URI, which :func:`beear.registry.check.check` has accepted.
            experiment: its name; created where it is missing.
            folder: the output folder, where metrics wait while the server is away.
            identity: the identity digest.
            name: the run's name.
            config: the resolved configuration; logged as dotted parameters without credentials.
            tags: further tags.
            resume: look for a run of this identity that never finished.

        Raises:
            UserError: the server does not take the run.
        """
        server = Server(uri)
        try:
            experiment_id = server.experiment_id(experiment)
            run_id = server.unfinished_run(experiment_id, identity) if resume else None
            if run_id is None:
                run_id = server.create_run(experiment_id, name, identity, config, tags or {})
        except lost_errors() as error:
            raise UserError(
                f'tracking.uri: "{redact(uri)}" does not take a run ({reason(error, uri)}); '
                "expected a working MLflow server or database"
            ) from None
        return cls(server, experiment, run_id, folder, identity)

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
        config: Mapping[str, object],
    ) -> "Run":
        """Return the run ``run_id`` to add to it, or a new one where the server does not know it.

        Raises:
            UserError: the server does not take the run.
        """
        from mlflow.exceptions import MlflowException

        server = Server(uri)
        try:
            if run_id and server.client.get_run(run_id).info.lifecycle_stage == "active":
                return cls(server, experiment, run_id, folder, identity)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise UserError(
                    f'tracking.uri: "{redact(uri)}" cannot be used ({reason(error, uri)}); expected a working MLflow server'
                ) from None
        return cls.start(uri, experiment, folder, identity=identity, name=name, config=config, resume=False)

    @property
    def buffer(self) -> pathlib.Path:
        """The file of metrics that the server has not taken yet."""
        return pathlib.Path(self.folder) / BUFFER

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> bool:
        """Log one epoch's numbers; return False where the server is away and they wait in the buffer."""
        clean = {metric_name(key): float(value) for key, value in metrics.items()}
        line = json.dumps({"time": int(time.time() * 1000), "step": step, "metrics": clean})
        self.buffer.parent.mkdir(parents=True, exist_ok=True)
        with self.buffer.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
        return self.flush()

    def flush(self) -> bool:
        """Send the metrics that wait; return whether the server took all of them."""
        try:
            self.deliver()
        except lost_errors():
            return False
        return True

    def deliver(self) -> None:
        """Send the metrics that wait.

        Raises:
            MlflowException or OSError: the server did not take them; they go on waiting.
        """
        if not self.buffer.exists():
            return
        from mlflow.entities import Metric

        metrics = []
        for line in self.buffer.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # A process was killed while it wrote this line.
            metrics += [Metric(key, value, record["time"], record["step"]) for key, value in record["metrics"].items()]
        # A server takes at most 1000 metrics in one request.
        for start in range(0, len(metrics), 500):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 500])
        self.buffer.unlink()

    def finish(self, status: str = "FINISHED") -> bool:
        """Send the metrics that wait and close the run (FINISHED, FAILED or KILLED); return whether the server took both."""
        try:
            self.deliver()
            self.client.set_terminated(self.run_id, status)
        except lost_errors():
            return False
        return True
