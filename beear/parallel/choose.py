"""The one place where a backend is chosen. Sharded ones are imported only where they are chosen."""

import torch

from beear.parallel.base import Backend
from beear.parallel.replicated import DataParallel, Single
from beear.parallel.spread import Spread


def choose(spread: Spread, device: torch.device | str, compute: torch.dtype = torch.float32) -> Backend:
    """Return the backend that spreads weights as ``spread`` says; ``compute`` is the dtype of matrix products."""
    if spread.backend == "fsdp":
        from beear.parallel.fsdp import FullySharded

        return FullySharded(device, spread, compute)
    if spread.backend == "deepspeed":
        from beear.parallel.zero import ZeRO

        return ZeRO(device, spread, compute)
    return (Single if spread.backend == "single" else DataParallel)(device, spread, compute)
