"""What a run reserves on the cluster, and refusing at once what the cluster cannot hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import ray

from beear.cluster import autoscaling
from beear.cluster.gpu_memory import ask_gpus
from beear.config.schema import ParallelConfig
from beear.errors import UserError
from beear.parallel.devices import GIB, Device, cpu

# Ray names a kind of accelerator by such a resource, for instance accelerator_type:H100.
LABEL = "accelerator_type:"
Ask = Callable[[Sequence[str], float], Sequence[Device | None]]


@dataclass(frozen=True)
class Reservation:
    """What a run reserves: workers with their share each, and CPUs for Ray Data."""

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
        """Say it in one line."""
        return (
            f"{self.workers} worker(s) with {self.cpus_per_worker:g} CPU and {self.gpus_per_worker:g} GPU each, "
            f"{self.data_cpus:g} CPU for data: {self.cpus:g} CPU and {self.gpus:g} GPU in all"
        )


def reservation_for(parallel: ParallelConfig) -> Reservation:
    """Return what a run reserves, with a GPU each where the cluster has or may get any and the configuration does not say."""
    gpus = parallel.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if autoscaling.possible().get("GPU", 0) > 0 else 0.0
    return Reservation(parallel.workers, parallel.cpus_per_worker, gpus, parallel.data_cpus)


def await_room(wanted: Reservation, say: Callable[[str], None]) -> None:
    """Wait for the nodes that ``wanted`` lacks where an autoscaler can add them; where none can, the next check refuses.

    Raises:
        UserError: they did not come in time.
    """
    missing = _missing(wanted, ray.cluster_resources())
    if missing and not _missing(wanted, autoscaling.possible()):
        say(f"  note: waiting for the cluster to grow by {' and '.join(missing)}")
        autoscaling.await_bundles(wanted.bundles, say)


def check_resources(wanted: Reservation) -> None:
    """Make sure that the cluster has room.

    Raises:
        UserError: the cluster is too small; the sentence names what is missing.
    """
    lower = "lower parallel.workers, parallel.cpus_per_worker or parallel.data_cpus, or add nodes"
    missing = _missing(wanted, ray.cluster_resources())
    if missing:
        raise UserError(f"the cluster is too small for {wanted.sentence()}: {' and '.join(missing)}; {lower}")
    room = sum(_room(node["Resources"], wanted) for node in ray.nodes() if node["Alive"])
    if room < wanted.workers:
        raise UserError(
            f"the cluster is too small for {wanted.sentence()}: a worker must fit on one node, and its nodes hold {room}; {lower}"
        )


def _missing(wanted: Reservation, there: dict[str, float]) -> list[str]:
    """Return what ``there`` lacks for ``wanted``, in words."""
    return [
        f"{need - there.get(name, 0.0):g} more {name} (it has {there.get(name, 0.0):g}, the plan needs {need:g})"
        for name, need in (("CPU", wanted.cpus), ("GPU", wanted.gpus))
        if need > there.get(name, 0.0) + 1e-9
    ]


def device_of(parallel: ParallelConfig, wanted: Reservation, ask: Ask = ask_gpus) -> Device | None:
    """Return what a worker of ``wanted`` computes on: the smallest such device, None where its memory is not known.

    GPUs are asked, one on each kind of node that has room for a worker, unless the configuration says what they hold.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and _room(node["Resources"], wanted)]
    if not wanted.gpus_per_worker:
        shares = [
            there["memory"] / min(_room(there, wanted), wanted.workers)
            for there in (node["Resources"] for node in nodes)
            if "memory" in there
        ]
        memory = parallel.device_memory * GIB if parallel.device_memory else min(shares, default=0.0)
        return cpu(memory) if memory else None
    share = min(1.0, wanted.gpus_per_worker)
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


def _room(resources: dict[str, float], wanted: Reservation) -> int:
    """Return how many workers a node has room for."""
    needs = {"CPU": wanted.cpus_per_worker, "GPU": wanted.gpus_per_worker}
    return min(int(resources.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need)
