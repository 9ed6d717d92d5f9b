"""Connecting to Ray, and refusing at once a plan that the cluster cannot hold."""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from beear.cluster import autoscaling
from beear.cluster.gpu_memory import ask_gpus
from beear.config.entry import catch_signals
from beear.config.schema import ParallelConfig
from beear.errors import UserError
from beear.parallel.devices import GIB, Device, cpu

ROOT = Path(__file__).resolve().parents[2]
REACH_SECONDS = 5.0
# Ray's resource for a kind of accelerator, such as accelerator_type:H100.
LABEL = "accelerator_type:"
Ask = Callable[[Sequence[str], float], Sequence[Device | None]]
# Ray sets this variable in a submitted job.
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
NOT_SENT = [".venv", ".git", ".cache", "outputs", "mlartifacts", "*.db", "tests", "docs"]


@dataclass(frozen=True)
class Plan:
    """What a run asks of the cluster: workers with their share each, and a share kept for Ray Data."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    data_cpus: float

    @property
    def cpus(self) -> float:
        """CPUs in all."""
        return self.workers * self.cpus_per_worker + self.data_cpus

    @property
    def gpus(self) -> float:
        """GPUs in all."""
        return self.workers * self.gpus_per_worker

    @property
    def share(self) -> autoscaling.Bundle:
        """What one worker holds."""
        return {"CPU": self.cpus_per_worker, **({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})}

    @property
    def bundles(self) -> list[autoscaling.Bundle]:
        """What must fit on one node each."""
        return [*[self.share] * self.workers, {"CPU": self.data_cpus}]

    def sentence(self) -> str:
        """Say the plan in one line."""
        return (
            f"{self.workers} worker(s) with {self.cpus_per_worker:g} CPU and {self.gpus_per_worker:g} GPU each, "
            f"{self.data_cpus:g} CPU for data: {self.cpus:g} CPU and {self.gpus:g} GPU in all"
        )


def connect(parallel: ParallelConfig, verbose: bool) -> None:
    """Join the configured cluster, the job's own, or start a local one.

    Raises:
        UserError: the address does not answer.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # An epoch's report waits for the controller's next look, by default two seconds away.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Ray's workers give way to everything else by default, and starve beside any other load.
    os.environ.setdefault("RAY_worker_niceness", "0")
    address = parallel.address or os.environ.get("RAY_ADDRESS")
    if parallel.address:
        _check_reachable(parallel.address)
    level = logging.INFO if verbose else logging.ERROR
    try:
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


def _check_reachable(address: str) -> None:
    """Ask a HOST:PORT whether anything listens there: Ray itself would wait for minutes and log meanwhile."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"parallel.address: nothing answers at {address} ({error}); expected a running Ray cluster") from error


def plan_for(parallel: ParallelConfig) -> Plan:
    """Return the plan, with a GPU each where the cluster has or may get any and the configuration does not say."""
    gpus = parallel.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if autoscaling.possible().get("GPU", 0) > 0 else 0.0
    return Plan(parallel.workers, parallel.cpus_per_worker, gpus, parallel.data_cpus)


def await_room(plan: Plan, say: Callable[[str], None]) -> None:
    """Wait for the nodes that ``plan`` lacks where an autoscaler can add them; where none can, the next check refuses.

    Raises:
        UserError: they did not come in time.
    """
    missing = _missing(plan, ray.cluster_resources())
    if missing and not _missing(plan, autoscaling.possible()):
        say(f"  note: waiting for the cluster to grow by {' and '.join(missing)}")
        autoscaling.await_bundles(plan.bundles, say)


def check_resources(plan: Plan) -> None:
    """Compare the plan with the cluster.

    Raises:
        UserError: the cluster is too small; the sentence names what is missing.
    """
    lower = "lower parallel.workers, parallel.cpus_per_worker or parallel.data_cpus, or add nodes"
    missing = _missing(plan, ray.cluster_resources())
    if missing:
        raise UserError(f"the cluster is too small for {plan.sentence()}: {' and '.join(missing)}; {lower}")
    room = sum(_room(node["Resources"], plan) for node in ray.nodes() if node["Alive"])
    if room < plan.workers:
        raise UserError(
            f"the cluster is too small for {plan.sentence()}: a worker must fit on one node, and its nodes hold {room}; {lower}"
        )


def _missing(plan: Plan, there: dict[str, float]) -> list[str]:
    """Return what ``there`` lacks for ``plan``, in words."""
    return [
        f"{need - there.get(name, 0.0):g} more {name} (it has {there.get(name, 0.0):g}, the plan needs {need:g})"
        for name, need in (("CPU", plan.cpus), ("GPU", plan.gpus))
        if need > there.get(name, 0.0) + 1e-9
    ]


def device_of(parallel: ParallelConfig, plan: Plan, ask: Ask = ask_gpus) -> Device | None:
    """Return what a worker of ``plan`` computes on: the smallest such device, None where its memory is not known.

    GPUs are asked, one on each kind of node that has room for a worker, unless the configuration says what they hold.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and _room(node["Resources"], plan)]
    if not plan.gpus_per_worker:
        shares = [
            there["memory"] / min(_room(there, plan), plan.workers)
            for there in (node["Resources"] for node in nodes)
            if "memory" in there
        ]
        memory = parallel.device_memory * GIB if parallel.device_memory else min(shares, default=0.0)
        return cpu(memory) if memory else None
    share = min(1.0, plan.gpus_per_worker)
    if parallel.device_memory:
        return Device("GPU", parallel.device_memory * GIB * share, gpu=True)
    kinds = {_kind(node["Resources"]): node["NodeID"] for node in reversed(nodes)}
    found = ask(list(kinds.values()), share)
    known = [device for device in found if device is not None]
    if not known or len(known) < len(found):
        return None
    smallest = min(known, key=lambda device: device.memory)
    return replace(smallest, memory=smallest.memory * share)


def _kind(resources: dict[str, float]) -> tuple[str, ...]:
    labels = sorted(name for name in resources if name.startswith(LABEL))
    return (f"{resources.get('GPU', 0):g}", *labels)


def _room(resources: dict[str, float], plan: Plan) -> int:
    """Return how many workers a node has room for."""
    needs = {"CPU": plan.cpus_per_worker, "GPU": plan.gpus_per_worker}
    return min(int(resources.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need)


def _environment(address: str | None) -> dict[str, object]:
    """Return what workers run in; they must import this package, wherever the command was called from."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    variables = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    variables |= {name: os.environ[name] for name in ("BEEAR_CACHE", "HF_HUB_OFFLINE") if name in os.environ}
    if address is None:
        paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return {"env_vars": {**variables, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}}
    # A submitted job's working directory reaches its workers by itself.
    if SUBMITTED in os.environ:
        return {"env_vars": variables}
    return {"env_vars": variables, "working_dir": str(ROOT), "excludes": NOT_SENT}
