"""How several workers talk: a torch.distributed group that the caller has set up (gloo on CPU, nccl on GPU)."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Group:
    """The part of a backend that adds, compares and gathers plain values over the workers."""

    def __init__(self, device: torch.device) -> None:
        """Read rank and world from the process group; ``device`` holds what is sent."""
        self.device = device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum over workers."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def max(self, value: float) -> float:
        """Return the maximum over workers."""
        top = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(top, op=dist.ReduceOp.MAX)
        return float(top)

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, in rank order."""
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values
