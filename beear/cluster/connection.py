"""The connection to Ray: one session, which a command opens for all the runs that it makes."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Self

import ray
from ray._private import ray_constants

from beear.config.entry import catch_signals
from beear.config.schema import ParallelConfig
from beear.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
REACH_SECONDS = 5.0
# Ray sets this variable in a submitted job.
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
NOT_SENT = [".venv", ".git", ".cache", "outputs", "mlartifacts", "*.db", "tests", "docs"]


class RaySession:
    """A command's connection to Ray: it opens one, hands it to every run that it makes, and closes it at the end.

    A context manager. It joins the configured cluster or the job's own, or starts a local one, when the first run has been
    checked and asks for it; nothing else in the product connects.
    """

    def __init__(self, parallel: ParallelConfig, verbose: bool = False) -> None:
        """``parallel`` says where to connect; ``verbose`` shows Ray's own log."""
        self._parallel, self._verbose, self._open = parallel, verbose, False

    def connect(self) -> None:
        """Connect, unless the session is open already.

        Raises:
            UserError: the address does not answer.
        """
        if not self._open:
            _connect(self._parallel, self._verbose)
            self._open = True

    def __enter__(self) -> Self:
        """Return the session, which is not connected yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster, or end the local one."""
        if self._open:
            ray.shutdown()
            self._open = False


def _connect(parallel: ParallelConfig, verbose: bool) -> None:
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # The controller looks for reports every two seconds by default, and an epoch's report waits for that.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Ray gives its workers a low priority by default, so that they starve beside other load.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray ends an idle worker after a second by default. One that has measured a model is asked to measure the next one, and
    # importing everything again takes seconds.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "300000")
    address = parallel.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        # Nobody preempts the nodes of a cluster that is this machine.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if parallel.address:
        _check_reachable(parallel.address)
    level = logging.INFO if verbose else logging.ERROR
    try:
        with nullcontext() if address else _loopback_alone():
            ray.init(
                address=address or "local",
                include_dashboard=False if address is None else None,
                log_to_driver=verbose,
                logging_level=level,
                configure_logging=True,
                runtime_env=_environment(address),
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        raise UserError(f"parallel.address {address}: no Ray cluster answers there ({error})") from error
    # Ray's own SIGTERM handler ends the process with 15.
    catch_signals()
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(level)


@contextmanager
def _loopback_alone() -> Iterator[None]:
    """Have the processes that Ray starts in this block listen on the loopback address alone.

    By default they listen on the machine's outward address, so that other nodes can join. Ray has no option against it, except
    what it does on desktops; processes read that from the environment, and this one has read it when it imported ray.
    """
    name, enabled = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    said = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if said is None:
            del os.environ[name]
        else:
            os.environ[name] = said


def _check_reachable(address: str) -> None:
    """Check that something listens at HOST:PORT. Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"parallel.address: nothing answers at {address} ({error}); expected a running Ray cluster") from error


def _environment(address: str | None) -> dict[str, object]:
    """Return the workers' environment: they must be able to import this package from any working directory."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    variables = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    variables |= {name: os.environ[name] for name in ("BEEAR_CACHE", "HF_HUB_OFFLINE") if name in os.environ}
    if address is None:
        paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return {"env_vars": {**variables, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}}
    # Ray sends a submitted job's working directory to its workers.
    if SUBMITTED in os.environ:
        return {"env_vars": variables}
    return {"env_vars": variables, "working_dir": str(ROOT), "excludes": NOT_SENT}
