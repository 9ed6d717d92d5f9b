"""Asks GPUs for their memory. Labels do not tell it: an A100 has 40 or 80 GB, and a MIG slice a part of that."""

from collections.abc import Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from beear.parallel.devices import Device

# Seconds to wait: a worker starts and imports torch in seconds, but a GPU that another job holds may stay taken for hours.
SECONDS = 120.0


def gpu_here() -> Device | None:
    """Return this process's GPU with its whole memory; None where torch can use none."""
    if not torch.cuda.is_available():
        return None
    return Device(torch.cuda.get_device_name(), float(torch.cuda.mem_get_info()[1]), gpu=True)


def ask_gpus(nodes: Sequence[str], share: float, seconds: float = SECONDS) -> list[Device | None]:
    """Return a GPU of each node (Ray's ids), None where none answered in time. A task takes ``share`` of a GPU."""
    asked = [_gpu_here.options(num_gpus=share, scheduling_strategy=_on(node)).remote() for node in nodes]
    _, late = ray.wait(asked, num_returns=len(asked), timeout=seconds)
    for task in late:
        ray.cancel(task, force=True)
    return [None if task in late else _answer(task) for task in asked]


def _on(node: str) -> Any:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _answer(task: Any) -> Device | None:
    try:
        found: Device | None = ray.get(task)
    except RayError:
        return None
    return found


# The process ends with its task, which frees the GPU's context.
_gpu_here = ray.remote(num_cpus=0, max_calls=1)(gpu_here)
